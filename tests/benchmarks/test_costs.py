"""The benchmarks of cost work from end to end, and their results on the site are whole. Nothing here looks at a clock."""

import json

import pytest

from tests.benchmarks import run

COSTS = ("speed", "memory", "decode", "sparse")


@pytest.mark.parametrize("name", COSTS)
def test_a_benchmark_runs_and_prints(name, tmp_path, capsys):
    place = tmp_path / "results.json"
    run.main([name, "--quick", "--out", str(place)])
    printed = capsys.readouterr().out
    found = json.loads(place.read_text(encoding="utf-8"))
    assert found["environment"]["python"]
    assert len(printed.splitlines()) > 5
    assert run.benchmark(name).show(found)
    if name == "memory":
        memory_of_tiles_is_that_of_tiles(found["functions"])


def memory_of_tiles_is_that_of_tiles(functions):
    """1,024 to 4,096 tokens: all scores take 16 times the memory, tiles what a tile of each thread takes."""
    for name in ("attention", "attention_vjp"):
        first, *_, last = functions[name]
        assert 15 < last["bytes"] / first["bytes"] < 17
    assert functions["tiled_attention"][-1]["bytes"] < 64 * 2**20


@pytest.mark.parametrize("name", COSTS)
def test_results_on_record_can_be_shown(name):
    found = json.loads((run.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert found["environment"]["versions"]["numpy"]
    assert run.benchmark(name).show(found)
