"""Write every spec/*/vectors.json anew: results from the definitions, then the distances of the variants; then the lock.

python tests/regenerate.py               all mechanisms
python tests/regenerate.py softmax       some
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from refattn.testing import vectors
from refattn.testing.catches import distance
from refattn.testing.variants import variants
from spec.vectors import HERE, dump, evaluate, mechanisms
from tests import lock

LEAST = 4.0  # a case that claims to catch a variant must see it at this many bounds
PRECISIONS = ("float32", "bfloat16")


def regenerate(mechanism):
    """The contents of a mechanism's vectors.json, distances included."""
    return with_distances(mechanism, evaluate(mechanism))


def with_distances(mechanism, contents):
    """The same with the distances of the variants measured anew; refused where a case sees less than it claims."""
    known = {(v.name, v.function): v for v in variants()}
    for record in contents["cases"]:
        case = vectors._case(mechanism, record)
        for name in record.get("catches", {}):
            if (name, case.function) not in known:
                raise SystemExit(f"{record['id']} claims to catch {name}, but {case.function} has no such variant")
            found = {p: _short(distance(case, known[name, case.function], p)) for p in PRECISIONS}
            if found["float32"] != "inf" and found["float32"] < LEAST:
                raise SystemExit(f"{record['id']} sees {name} only at {found['float32']} bounds of float32")
            record["catches"][name] = found
    return contents


def _short(distance):
    """Two digits, rounded down, so that the last bits of a machine's arithmetic do not show."""
    if math.isinf(distance):
        return "inf"
    if distance == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(distance)) - 1)
    return float(f"{math.floor(distance / unit * (1 + 1e-9)) * unit:.2g}")


if __name__ == "__main__":
    chosen = sys.argv[1:] or mechanisms()
    for name in chosen:
        (HERE / name / "vectors.json").write_text(dump(regenerate(name)))
        print(f"spec/{name}/vectors.json")
    lock.write(chosen, mechanisms())
