"""The claims ledger: every statement of the paper, with a verdict that is computed each time.

A claim is a function of its inputs, registered by :func:`~experiments.claims.claim.claim`, so that
other inputs (a wrong sign, a policy that does not cover) can turn its verdict. Importing this
package fills :data:`CLAIMS`; :mod:`~experiments.claims.ledger` runs and writes it.
"""

from experiments.claims.claim import CLAIMS, VERDICTS, Check, Claim, Verdict

from experiments.claims import (  # isort: skip  (the order of the ledger)
    objective as objective,
    measure as measure,
    unified as unified,
    advantage as advantage,
    estimator as estimator,
    gate as gate,
    losses as losses,
    appendix as appendix,
    table1 as table1,
    conflict as conflict,
    references as references,
    clipping as clipping,
    mixing as mixing,
)

__all__ = ["CLAIMS", "VERDICTS", "Check", "Claim", "Verdict"]
