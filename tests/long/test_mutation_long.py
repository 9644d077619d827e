"""Mistakes made on purpose in the code that must not be wrong: the tests notice them, or it is said why not.

``WSIVIT_LONG_MUTATION=60`` tries fewer mutants, ``WSIVIT_LONG_MUTATION_SEED=1`` others, and
``WSIVIT_LONG_MUTATION_SOUND=0`` trusts that the tests pass as they are. Needs the extra ``mutation``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.long_amounts import amount
from support.mutation import TARGETS, Mutant, Workplace, draw

pytest.importorskip("cosmic_ray", reason="pip install 'wsivit[mutation]'")

SECONDS = 1800.0
REASONS = Path(__file__).with_name("mutation_survivors.txt")
"""Survivors that are no fault of the tests, one a line, each followed by the reason."""


def test_mistakes_are_noticed(tmp_path: Path) -> None:
    known = {line.partition("  # ")[0].strip() for line in REASONS.read_text().splitlines()}
    workplace, survivors, tried = Workplace(tmp_path), list[Mutant](), 0
    sound = set() if amount("mutation_sound", 1) else {*TARGETS}
    for mutant in draw(amount("mutation", 200), amount("mutation_seed", 0)):
        if mutant.module not in sound:
            assert workplace.passes(TARGETS[mutant.module], SECONDS), f"the tests of {mutant.module} fail as they are"
            sound.add(mutant.module)
        tried += 1
        survived = workplace.survives(mutant, SECONDS)
        print(f"{tried} {'survived' if survived else 'noticed'}: {mutant}", flush=True)
        if survived and str(mutant) not in known:
            survivors.append(mutant)
    assert not survivors, f"{len(survivors)} of {tried} are not noticed:\n" + "\n".join(map(str, survivors))
