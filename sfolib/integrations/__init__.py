"""Policies in other people's training loops: Lightning, transformers' Trainer, Accelerate.

Plans need nothing from here; see docs/your_own_loop.md. Needs `pip install 'sfolib[clients]'`.
"""
