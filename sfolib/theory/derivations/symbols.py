"""Every symbol with what is assumed of it, in the papers' letters; SFO is counted in gradient evaluations."""

from __future__ import annotations

import sympy as sp

# the problem: smoothness L, per-sample standard deviation σ, initial gap Δ, target ε (a norm), n samples
L, sigma, gap, eps = sp.symbols("L sigma Delta epsilon", positive=True)
n = sp.Symbol("n", positive=True, integer=True)

# a run: learning rate η and its maximum, batch size b, K (real) or T (integer) steps, N gradient evaluations
lr, lr_max, b, K = sp.symbols(r"eta eta_max b K", positive=True)
T, M = sp.symbols("T M", positive=True, integer=True)
t, j = sp.symbols("t j", nonnegative=True, integer=True)
lrs = sp.IndexedBase("eta", positive=True)
size = sp.Symbol("b", positive=True, integer=True)  # a batch that is drawn; b is its real relaxation

# the constants of the summed bound, as symbols and written out for the maximal learning rate `top`
C1, C2 = sp.symbols("C_1 C_2", positive=True)


def c1(top):
    """C1 = 2Δ/(2 − L η_max)."""
    return 2 * gap / (2 - L * top)


def c2(top):
    """C2 = Lσ²/(2 − L η_max)."""
    return L * sigma**2 / (2 - L * top)


# growth a stage: batch δ, learning rate γ, steps τ, and r = (ε_{m−1}/ε_m)²
delta, gamma, tau, r = sp.symbols("delta gamma tau r", positive=True)

# where the run is: G2 = ‖G‖², GHG = GᵀHG, Q = tr(HΣ), S2 = tr(Σ²), tr_sigma = tr Σ, G the gradient of f, H its Hessian
G2, GHG, Q, S2, tr_sigma = sp.symbols("G_2 G_HG Q S_2 tr_Sigma", positive=True)
