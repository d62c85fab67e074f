"""Symbolic proofs for all policies over finitely many trajectories, one generic trajectory a time.

Both sides of an identity of section 2 or appendix B are sums over trajectories. Along any curve in
the parameters trajectory i has probability p_i, its derivative is d_i, and Σ d_i = 0 as Σ p_i = 1.
So a difference Σ_i e_i vanishes for *any* differentiable policy over *any* finite number of
trajectories if e_i = c · d_i with c the same for all i. That is what :func:`vanishes` asks sympy.
"""

from __future__ import annotations

import sympy

from upge.verification.maths import Scalar

#: Of one trajectory: π_θ, its derivative, r, π_β, π_ref, any function f of it and of θ, and ∂f/∂θ.
P, BETA, REF = sympy.symbols("pi beta ref", positive=True)
D, R, F, F_DOT = sympy.symbols("d r f f_dot", real=True)

#: Of all trajectories.
MU, LAM = sympy.symbols("mu lambda", positive=True)

#: ∇log π_θ of the trajectory.
SCORE = D / P


def derivative(term: Scalar) -> Scalar:
    """The derivative along the curve of a trajectory's part of an expectation or divergence."""
    return term.diff(P) * D + term.diff(F) * F_DOT


def vanishes(difference: Scalar) -> bool:
    """Whether Σ_i ``difference``_i is 0 for all finite policies."""
    factor = sympy.simplify(sympy.expand(difference) / D)
    return not factor.free_symbols & {P, D, R, BETA, REF, F, F_DOT}


def size(difference: Scalar) -> float:
    """0 if it vanishes; else its part of a trajectory with π_θ = 1/2, π_β = 1/4, r = d = 1."""
    if vanishes(difference):
        return 0.0
    half, one = sympy.Rational(1, 2), sympy.Integer(1)
    point = {P: half, BETA: half**2, REF: half**3, D: one, R: one, F: one, F_DOT: one}
    return float(abs(difference.subs(point | {MU: one, LAM: one})))


def kl_term(p: Scalar, q: Scalar) -> Scalar:
    """One trajectory's part of KL(p ‖ q)."""
    return p * sympy.log(p / q)


def shown(difference: Scalar) -> str:
    """The difference in characters."""
    return str(sympy.factor(sympy.expand(difference)))
