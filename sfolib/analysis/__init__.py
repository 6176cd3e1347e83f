"""What runs say: when they got to a level, how alike they are, what the theory claims of them."""
