"""check: verdicts by clause, diagnosis, allow-lists, reports."""

import datetime
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import refattn
from refattn import cli, masks
from refattn.testing import allow, reports
from refattn.testing.adapters import Adapter, CallableAdapter, Unsupported
from refattn.testing.checking import check, mechanism_of


def top_left(q, k, v, mask=None, **options):
    """A kernel that aligns causality at the top left."""
    if isinstance(mask, masks.Mask) and mask.name == "causal":
        options["q_positions"] = np.arange(q.shape[-2])
    return refattn.attention(q, k, v, mask, **options)


def without_sinks(q, k, v, mask=None, *, sinks=None, **options):
    """A kernel that has no sinks and says so."""
    if sinks is not None:
        raise Unsupported("no sinks")
    return refattn.attention(q, k, v, mask, **options)


@pytest.fixture(scope="module")
def wrong():
    return check(top_left)


@pytest.mark.parametrize("effort", ["smoke", "standard"])
@pytest.mark.parametrize(
    "function",
    [refattn.attention, refattn.softmax, refattn.logsumexp, refattn.merge, refattn.grouped_query_attention],
    ids=lambda f: f.__name__,
)
def test_the_reference_conforms_to_itself(function, effort):
    report = check(function, effort=effort)
    assert report.ok, reports.as_text(report)
    assert report.count("holds") == len(report.results)


@pytest.mark.parametrize("precision", ["float64", "float16", "bfloat16"])
def test_a_kernel_is_judged_by_the_precision_it_promises(precision):
    from tests.kernels import flash

    def kernel(q, k, v, mask=None, *, return_lse=False, **options):
        wide = (x.astype(np.float64) for x in (q, k, v))
        out, lse = flash(*wide, mask, precision=precision, **options)
        return (out, lse) if return_lse else out

    report = check(kernel, precision=precision)
    # The emulated kernel multiplies excluded values by zero, as most real ones do: that, and no more, is found.
    assert {deviation for _, deviation in report.deviations()} <= {
        "values/multiplied_by_zero",
        "values/cleaned",
        "bias/infinity_adds",
        "accepts wrong input",
        "unexplained NaN or infinity",
        "refuses valid input",
        "softcap/zero_divides",
    }
    assert report.count("holds") > 60


def test_a_wrong_convention_is_found_named_and_counted_against_its_clause(wrong):
    assert not wrong.ok
    assert ("attention", "causal/top_left") in wrong.deviations()
    assert {name for name, n in wrong.by_clause().items() if n["broken"]} <= {"ATTN-ALIGN", "ATTN-MASK"}
    text = reports.as_text(wrong)
    assert "NONCONFORMING" in text
    assert "causal/top_left in attention (clause ATTN-ALIGN)" in text
    assert "again: refattn replay attention." in text


def test_what_is_not_supported_is_neither_a_pass_nor_a_failure():
    report = check(without_sinks)
    assert report.ok
    assert report.count("unsupported") > 0
    assert report.by_clause()["ATTN-SINK"]["unsupported"] > 0
    assert "no sinks" in reports.as_text(report)


def test_one_case_can_be_run_again(wrong):
    (found, *_) = wrong.deviations()["attention", "causal/top_left"]
    again = check(top_left, only=found.case.id)
    assert [r.case.id for r in again.results] == [found.case.id]
    assert not again.ok
    with pytest.raises(ValueError, match="nothing to check"):
        check(top_left, only="no.such.case")


def entry(**changes):
    fields = {
        "target": "mine", "function": "attention", "deviation": "causal/top_left",
        "reason": "documented", "until": datetime.date(2999, 1, 1), **changes,
    }  # fmt: skip
    return allow.Allowance(**fields)


def test_known_deviations_are_shown_and_do_not_fail():
    mine = CallableAdapter(top_left, name="mine")
    report = check(mine, allow=[entry(), entry(deviation="scale/ignored")])
    assert report.ok
    assert report.count("known") > 0
    assert "CONFORMS but for 1 known deviation" in reports.as_text(report)
    for counts_no_more in (entry(until=datetime.date(2020, 1, 1)), entry(cases="attention.window.*")):
        assert not check(mine, allow=[counts_no_more], only="attention.causal*").ok
    assert [e.deviation for e in report.stale] == ["scale/ignored"]
    assert "scale/ignored: no longer shows" in reports.as_text(report)


def test_allow_lists_are_strict(tmp_path):
    path = tmp_path / "known.toml"
    good = '[[allow]]\ntarget = "x"\nfunction = "attention"\ndeviation = "d"\nreason = "r"\nuntil = 2999-01-01\n'
    path.write_text(good)
    assert allow.read(path) == [allow.Allowance("x", "attention", "d", "r", datetime.date(2999, 1, 1))]
    for bad, message in (
        (good.replace('reason = "r"\n', ""), "entry 1 lacks reason"),
        (good + 'colour = "red"\n', "entry 1 has unknown colour"),
        (good.replace("2999-01-01", '"soon"'), "entry 1 has the wrong type of until"),
        ("[[xfail]]\n", "unknown xfail"),
    ):
        path.write_text(bad)
        with pytest.raises(ValueError, match=message):
            allow.read(path)


def test_the_shipped_allow_lists_can_be_read():
    assert {e.target for e in allow.shipped()} <= set(refattn.testing.adapters.NAMES)


def test_shipped_entries_do_not_expire_and_say_on_which_releases_they_were_measured():
    """A clone of today must give the same verdict in ten years, of the releases that were measured."""
    assert all(entry.until is None and entry.measured for entry in allow.shipped())


MEASURED = """target = "lib"
measured = ["1.9.1", "1.10.0"]
[[allow]]
function = "attention"
deviation = "a"
reason = "r"
[[allow]]
function = "attention"
deviation = "b"
reason = "r"
versions = ["1.10"]
"""


@pytest.mark.parametrize(
    "version, names, judged_as",
    [
        ("1.9.1", "a", "1.9.1"),
        ("1.10.0+cpu", "ab", "1.10.0"),
        ("1.9.9", "a", "1.9.1"),  # between two: as the older one
        ("2.0", "ab", "1.10.0"),  # newer than all: as the newest
        ("1.2", "a", "1.9.1"),  # older than all: as the oldest
        ("", "a", "1.9.1"),
    ],
)
def test_one_list_serves_several_releases(tmp_path, version, names, judged_as):
    (tmp_path / "lib.toml").write_text(MEASURED)
    entries = allow.read(tmp_path / "lib.toml")
    assert "".join(e.deviation for e in allow.in_force(entries, "lib", version)) == names
    assert not allow.in_force(entries, "other", version)
    measured = allow.measured_on(entries, "lib", version)
    assert measured == {"releases": ["1.9.1", "1.10.0"], "judged_as": judged_as}
    said = allow.told(measured, version)
    assert said.startswith("known deviations were measured on 1.9.1 and 1.10.0")
    assert (judged_as in said.partition(":")[2]) == (version not in ("1.9.1", "1.10.0+cpu"))


def test_an_entry_of_one_s_own_may_be_for_some_releases(tmp_path):
    mine = CallableAdapter(top_left, name="mine")
    mine.version = "2.1.7"
    for versions, ok in ((("2.1",), True), (("2.10",), False), (("2",), True), (("1", "3"), False), ((), True)):
        assert entry(versions=versions).holds_for("2.1.7") == ok, versions
    for versions, ok in ((("2.1",), True), (("2.10",), False)):
        report = check(mine, allow=[entry(versions=versions)], only="attention.causal_wide*")
        assert report.ok == ok, versions
        left = {"left_out": {"entries": 1, "versions": ["2.10"]}}
        assert report.measured == ({} if ok else left)
        said = "1 entry of the allow-list for 2.10, not for 2.1.7: left out"
        for text in (reports.as_text(report), reports.as_html([reports.as_document(report)])):
            assert (said in text) == (not ok)


def test_entries_for_several_other_releases_are_counted():
    own = [entry(deviation=name, versions=versions) for name, versions in (("a", ("2.10",)), ("b", ("1", "2.9")))]
    shipped = entry(deviation="c", measured=("1.0",), until=None)
    told = allow.told(allow.measured_on([*own, shipped], "mine", ""), "")
    assert told == (
        "known deviations were measured on 1.0, not on this release: those of 1.0 are taken;"
        " 2 entries of the allow-list for 1, 2.9 and 2.10, not for this release: left out"
    )
    assert not allow.measured_on(own, "other", "")


def test_a_list_that_is_for_others_is_told(tmp_path, capsys):
    (tmp_path / "known.toml").write_text(MEASURED)
    words = ["check", "refattn:softmax", "--function", "softmax", "--effort", "smoke", "--allow"]
    assert cli.main([*words, str(tmp_path / "known.toml")]) == 0
    assert "known.toml: the allow-list has no entry for refattn:softmax; it is for lib" in capsys.readouterr().err
    assert not allow.of_others([entry()], "mine")
    assert not allow.of_others([], "mine")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('["1.10"]', '["1.11"]', "entry 2 is for 1.11, measured were 1.9.1, 1.10.0"),
        ('["1.10"]', '"1.10"', "entry 2 has the wrong type of versions"),
        ('["1.10"]', "[]", "entry 2 has the wrong type of versions"),
        ('["1.10"]', "[1.1]", "entry 2 has the wrong type of versions"),
        ('["1.9.1", "1.10.0"]', '"1.9.1"', "measured a list of releases"),
        ('["1.9.1", "1.10.0"]', '["new"]', "measured a list of releases"),
        ('measured = ["1.9.1", "1.10.0"]', "", "entry 1 lacks until"),
        ('target = "lib"', "", "entry 1 lacks target"),
        ('deviation = "b"', 'deviation = "a"', None),
        (
            'deviation = "b"\nreason = "r"\nversions = ["1.10"]',
            'deviation = "a"\nreason = "s"',
            "entries 1 and 2 are the same",
        ),
    ],
)
def test_what_is_wrong_with_a_list_of_releases_is_said(tmp_path, old, new, message):
    (tmp_path / "lib.toml").write_text(MEASURED.replace(old, new))
    if message is None:
        assert len(allow.read(tmp_path / "lib.toml")) == 2
    else:
        with pytest.raises(ValueError, match=message):
            allow.read(tmp_path / "lib.toml")


def test_a_check_says_on_which_releases_its_list_was_measured():
    measured = ("1.0", "2.0")
    mine = CallableAdapter(top_left, name="mine")
    mine.version = "2.5"
    report = check(mine, allow=[entry(measured=measured, until=None)], only="attention.causal*")
    assert report.ok
    assert "measured on 1.0 and 2.0, not on 2.5: those of 2.0 are taken" in reports.as_text(report)
    assert "not on 2.5" in reports.as_html([reports.as_document(report)])
    assert reports.as_document(report)["measured"] == {"releases": ["1.0", "2.0"], "judged_as": "2.0"}


def broken(kind):
    def kernel(q, k, v, mask=None, **options):
        out = refattn.attention(q, k, v, mask, **options)
        if kind == "raises":
            raise RuntimeError("no kernel image is available")
        if kind == "writes" and q.size:
            q[...] = 0
        if kind == "random":
            first = out[0] if isinstance(out, tuple) else out
            first += np.random.default_rng().normal(size=first.shape).astype(first.dtype)
        if kind == "shape":
            return tuple(x[..., :1] for x in out) if isinstance(out, tuple) else out[..., :1]
        return out

    return kernel


def test_a_case_without_a_bound_is_not_judged():
    """Codes that a kernel may round up or down: the reference itself is not accused, and no other case is lost."""
    report = check(refattn.cache.decode, only="*.random_*")
    assert report.ok
    reasons = {r.reason for r in report.results if r.status == "unsupported"}
    assert any("half-way" in reason for reason in reasons)
    assert report.count("holds") > report.count("unsupported")


def test_a_write_into_a_set_of_parameters_is_seen():
    """Two calls then differ as well, but that is not what is wrong."""

    def kernel(x, params, **options):
        out = refattn.latent.multi_head_latent_attention(x, params, **options)
        params.kv_norm[...] *= 2
        return out

    report = check(kernel, "latent.multi_head_latent_attention", effort="smoke", only="*.plain.*")
    assert {(r.deviation, r.clause) for r in report.results} == {("modifies an input", "BACKEND-PURE")}
    assert report.results[0].message == "params.kv_norm was changed by the call"


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("raises", "refuses valid input"),
        ("writes", "modifies an input"),
        ("random", "not deterministic"),
        ("shape", "wrong shape"),
    ],
)
def test_other_ways_to_fail(kind, deviation):
    report = check(broken(kind), effort="smoke", layout="reference")
    assert deviation in {name for _, name in report.deviations()}


def test_an_implementation_that_accepts_wrong_input():
    def careless(q, k, v, mask=None, **options):
        try:
            return refattn.attention(q, k, v, mask, **options)
        except (TypeError, ValueError):
            return np.zeros_like(q)

    report = check(careless, only="attention.refuse.*")
    assert {name for _, name in report.deviations()} == {"accepts wrong input"}


def test_the_json_report_has_everything_a_maintainer_needs(wrong):
    document = json.loads(reports.as_json(wrong))
    assert document["schema"] == "refattn-report/3"
    assert document["seed"] == 0
    assert document["environment"]["numpy"] == np.__version__
    assert {"refattn", "python", "platform", "tf32"} <= set(document["environment"])
    bad = [c for c in document["cases"] if c["status"] == "broken"]
    assert bad
    assert all(c["message"] and c["deviation"] and c["broken_clause"] for c in bad)


def test_the_junit_report_counts_and_carries_clauses(wrong):
    root = ET.fromstring(reports.as_junit(wrong))
    (suite,) = root
    assert int(suite.get("tests")) == len(wrong.results) == len(suite.findall("testcase"))
    assert int(suite.get("failures")) == wrong.count("broken") == len(suite.findall("testcase/failure"))
    assert suite.find("testcase/properties/property").get("name") == "clause"


def test_layouts():
    def bnhd(q, k, v, mask=None, **options):
        turned = (np.swapaxes(x, -2, -3) if x.ndim >= 3 else x for x in (q, k, v))
        result = refattn.attention(*turned, mask, **options)
        turn = lambda x: np.swapaxes(x, -2, -3) if x.ndim >= 3 else x
        return (turn(result[0]), result[1]) if isinstance(result, tuple) else turn(result)

    assert check(bnhd, layout="bnhd").ok
    assert not check(bnhd, only="attention.basic*").ok


def test_rope_of_four_axes_with_heads_behind_tokens():
    def bnhd(x, positions, **options):
        assert x.ndim == 4
        assert positions.shape in ((x.shape[1],), x.shape[:2])
        positions = positions if positions.ndim == 1 else positions[:, None, :]
        return np.swapaxes(refattn.rope(np.swapaxes(x, 1, 2), positions, **options), 1, 2)

    report = check(bnhd, "rope", layout="bnhd")
    assert report.ok, reports.as_text(report)
    assert report.count("holds") > 0.8 * len(report.results)
    assert not check(lambda x, positions, **options: refattn.rope(x, positions, **options), "rope", layout="bnhd").ok


@pytest.mark.parametrize(
    ("target", "function"), [(refattn.softmax, "softmax"), (refattn.attention_vjp, "attention_vjp")]
)
def test_a_layout_that_has_no_meaning_is_refused(target, function):
    with pytest.raises(ValueError, match=f"layout is 'bnhd', but {function} is taken in the reference's axes only"):
        check(lambda *args, **options: target(*args, **options), function, layout="bnhd")
    with pytest.raises(ValueError, match="onnx says its own axes"):
        check("onnx", layout="bnhd")


def test_an_adapter_may_offer_several_functions():
    class Mine(Adapter):
        name, version = "mine", "1"

        def __init__(self):
            self.functions = {"softmax": refattn.softmax, "logsumexp": refattn.logsumexp}

        def dtypes(self, function):
            return ("float64", "float32")

    report = check(Mine())
    assert report.ok
    assert {r.case.function for r in report.results} == {"softmax", "logsumexp"}
    assert {r.case.dtype for r in report.results} == {"float64", "float32"}


@pytest.mark.parametrize(
    ("function", "mechanism"),
    [
        ("logsumexp", "softmax"),
        ("attention_weights", "attention"),
        ("multi_query_attention", "heads"),
        ("positions.rotate", "positions"),
        ("rms_norm", "norms"),
        ("gelu", "feedforward"),
        ("Mask.dense", "masks"),
    ],
)
def test_a_function_belongs_to_the_mechanism_it_lives_in(function, mechanism):
    assert mechanism_of(function) == mechanism


@pytest.mark.parametrize("function", ["layer_norm", "rms_norm", "layer_norm_vjp", "rms_norm_vjp"])
def test_axes_come_as_the_integer_or_the_tuple_that_the_reference_documents(function):
    def kernel(*args, axis=-1, **kwargs):
        if not isinstance(axis, int | tuple):
            raise NotImplementedError(f"axis is {axis}")
        return getattr(refattn, function)(*args, axis=axis, **kwargs)

    report = check(CallableAdapter(kernel, function, "float32", "reference"))
    assert report.ok
    assert report.count("unsupported") == 0


def test_one_mechanism_can_be_checked_alone():
    assert check(refattn.attention, mechanism="attention", effort="smoke").ok
    with pytest.raises(ValueError, match="nothing to check for mechanism 'softmax'"):
        check(refattn.attention, mechanism="softmax", effort="smoke")


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="effort is 'max'; it must be one of smoke, standard, full"):
        check(refattn.attention, effort="max")
    with pytest.raises(
        ValueError, match=r"target is 'nothing'; it must be one of onnx, onnxruntime, torch, .* or module:function"
    ):
        check("nothing")


class TwoFunctions(Adapter):
    """An adapter of two functions in two dtypes."""

    name = "two"

    def __init__(self):
        self.functions = {"softmax": refattn.softmax, "attention": refattn.attention}

    def dtypes(self, function):
        return ("float32", "bfloat16")


def test_function_and_precision_choose_among_what_an_adapter_offers():
    report = check(TwoFunctions(), "softmax", precision="bfloat16")
    assert {(r.case.function, r.case.dtype) for r in report.results} == {("softmax", "bfloat16")}
    everything = check(TwoFunctions(), mechanism="softmax")
    assert {r.case.dtype for r in everything.results} == {"float32", "bfloat16"}
    with pytest.raises(ValueError, match=r"two offers nothing to check for function 'rope' and precision 'bfloat16'$"):
        check(TwoFunctions(), "rope", precision="bfloat16")
    with pytest.raises(ValueError, match=r"did you mean latent.latents_of\?"):
        check(TwoFunctions(), "latents_of")


def says(error):
    """A kernel that raises one exception whatever it is given."""

    def kernel(q, k, v, mask=None, **options):
        raise error

    return kernel


@pytest.mark.parametrize("order", [SystemExit(0), GeneratorExit(), type("Order", (BaseException,), {})("stop")])
def test_a_kernel_that_ends_the_process_is_broken_and_the_check_goes_on(order):
    report = check(says(order), only="attention.c*", effort="smoke")
    assert {name for _, name in report.deviations()} == {"exits"}
    assert len(report.results) == 17
    (first,) = [r for r in report.results if r.status == "broken"]
    assert "it ends the process: " in first.message
    assert {r.reason for r in report.results if r is not first} == {f"as {first.case.id}: exits"}


def test_ctrl_c_still_ends_the_check():
    assert check(says(KeyboardInterrupt()), effort="smoke").interrupted


@pytest.mark.parametrize(
    "error", [ImportError("no torch"), FileNotFoundError(2, "no such file", "k.so"), MemoryError()]
)
def test_an_error_that_is_no_refusal_gives_no_verdict(error):
    report = check(says(error), effort="smoke")
    assert not report.ok
    assert report.count("unjudged") == len(report.results), "also where the input must be refused"
    assert not report.deviations()
    assert report.by_clause()["ATTN-REFUSE"]["holds"] == 0
    (found,) = report.findings("unjudged")
    text = reports.as_text(report)
    assert found[0].reason in text
    assert "COULD NOT BE JUDGED: " in text
    document = reports.as_document(report)
    assert document["unjudged"][0]["text"] == found[0].reason
    assert reports.html.verdict(document)[1].startswith("Could not be judged")
    assert "<error message=" in reports.as_junit(report)


def test_a_name_that_an_adapter_looks_up_in_vain_is_its_own_mistake_and_not_the_librarys():
    class Mine(Adapter):
        name, version = "mine", "2"

        def __init__(self):
            self.functions = {"attention": self.attention}

        def attention(self, q, k, v, mask=None, **options):
            return refattn.attention_of_version_1(q, k, v)

    report = check(Mine(), only="attention.c*", effort="smoke")
    assert report.count("unjudged") == len(report.results)
    assert "attention_of_version_1" in report.results[0].reason
    # the same exception inside what is judged is a fault of it
    report = check(
        says(AttributeError("'NoneType' object has no attribute 'start'")), only="attention.c*", effort="smoke"
    )
    assert {name for _, name in report.deviations()} == {"refuses valid input"}


def two_refusals(q, k, v, mask=None):
    """A kernel with a limit and a bug; both raise, and it refuses what is wrong in the words of its limit."""
    if v.shape[-1] != q.shape[-1]:
        raise ValueError(f"wants Dv == D, not {v.shape}")
    if repr(mask) == "causal()":
        raise AttributeError("'NoneType' object has no attribute 'start'")
    return refattn.attention(q, k, v, mask)


def test_refusals_stand_apart_by_what_they_say():
    report = check(two_refusals)
    assert len(report.deviations("broken")) == 1
    [(limit,), (bug,)] = sorted(report.findings("broken"), key=lambda found: found[0].raised, reverse=True)
    same = [r for r in report.results if r.reason == f"as {bug.case.id}: refuses valid input"]
    assert len(same) > 3
    assert {r.case.arguments["mask"].name for r in (bug, *same)} == {"causal"}
    assert sum(r.reason == f"as {limit.case.id}: refuses valid input" for r in report.results) > len(same)
    text = reports.as_text(report)
    assert "wants Dv == D" in text
    assert "has no attribute 'start'" in text
    assert "NONCONFORMING: 2 new deviations" in text
    assert [len(d["cases"]) for d in reports.as_document(report)["deviations"]] == [1, 1]


def test_a_refusal_in_the_words_that_valid_input_gets_holds_nothing_up():
    report = check(says(RuntimeError("no kernel image is available")), effort="smoke")
    assert report.count("holds") == 0
    assert report.by_clause()["ATTN-REFUSE"]["unsupported"] > 0


@pytest.mark.parametrize("error", [ValueError(), type("Odd\nname", (Exception,), {"__str__": lambda self: 1 / 0})()])
def test_an_exception_without_a_text_is_told_all_the_same(error):
    report = check(says(error), only="attention.causal*", effort="smoke")
    said = {r.message for r in report.results if r.status == "broken"}
    assert len(said) == 1
    assert said <= {"raises ValueError", "raises Odd name: its text cannot be read"}
    assert reports.as_text(report)


class Unreadable:
    """What claims to be an array and is none."""

    def __array__(self, *args, **options):
        raise MemoryError("no")


@pytest.mark.parametrize("layout", ["reference", "bhnd", "bnhd"])
@pytest.mark.parametrize("result", [None, "out", [1.0], np.array([None]), Unreadable(), (), {}, (1, 2, 3)])
def test_a_result_that_is_no_array_is_the_wrong_kind_of_result(result, layout):
    report = check(lambda q, k, v, mask=None, **options: result, only="attention.[cs][ae]*", layout=layout)
    assert any(r.case.id.startswith("attention.ca") for r in report.results)
    assert any(r.case.id.startswith("attention.self.p") for r in report.results)
    assert {name for _, name in report.deviations()} <= {"wrong kind of result", "wrong shape"}


def gains(change):
    """rms_norm_vjp with another container or content."""
    return lambda *args, **options: change(refattn.rms_norm_vjp(*args, **options))


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g._replace(gamma=None),
        lambda g: {"x": g.x, "gamma": None},
        lambda g: (g.x, None),
        lambda g: [g.x, None],
        lambda g: (None, g.gamma),
        lambda g: (None, None),
    ],
)
def test_none_for_the_gradient_of_what_was_given_is_missing(change):
    report = check(gains(change), "rms_norm_vjp", layout="reference", effort="smoke")
    assert {name for _, name in report.deviations()} == {"gradient/missing"}
    assert not any(n["holds"] for n in report.by_clause().values())
    assert "None is returned for this gradient, and it has one, of shape (" in reports.as_text(report)


@pytest.mark.parametrize("change", [lambda g: {"x": g.x}, lambda g: (g.x,), lambda g: [g.x]])
def test_a_gradient_that_is_not_returned_is_not_supported_and_holds_no_clause(change):
    report = check(gains(change), "rms_norm_vjp", effort="smoke")
    assert not report.deviations()
    assert all(r.lacks == ("gamma",) for r in report.results)
    assert not any(n["holds"] for n in report.by_clause().values())
    assert "rms_norm_vjp: returns no gamma" in reports.as_text(report)
    assert not check(gains(lambda g: {"x": 2 * g.x}), "rms_norm_vjp", effort="smoke").ok, "what it returns is judged"


def test_wrong_numbers_say_more_than_a_missing_gradient():
    report = check(gains(lambda g: (-g.x, None)), "rms_norm_vjp", effort="smoke")
    assert not {name for _, name in report.deviations()} & {"gradient/missing"}


def test_the_scale_need_have_no_gradient_and_only_its_clause_is_not_held():
    def kernel(*args, **options):
        q, k, v, bias, sinks, _ = refattn.attention_vjp(*args, **options)
        return q, k, v, bias, sinks, None

    report = check(kernel, "attention_vjp", effort="smoke")
    assert report.ok, reports.as_text(report)
    clauses = report.by_clause()
    assert clauses["GRAD-EXACT"]["holds"] > 5
    assert clauses["GRAD-BIAS"]["holds"] > 0
    assert clauses["GRAD-SCALE"]["holds"] == 0 < clauses["GRAD-SCALE"]["unsupported"]


def test_a_report_prints_as_its_text_and_shows_itself_in_one_line(wrong):
    assert str(wrong) == reports.as_text(wrong)
    assert repr(wrong).startswith("<Report of tests.testing.test_checking:top_left: NONCONFORMING: ")
    assert len(repr(wrong)) < 200


def refuses_all(q, k, v, mask=None, **options):
    """A kernel that answers nothing, and refuses what is wrong."""
    refattn.attention(q, k, v, mask, **options)
    raise NotImplementedError("not written yet")


def test_right_refusals_alone_are_no_conformance():
    report = check(refuses_all)
    assert report.count("holds") > 2
    assert not report.ok
    assert "NOTHING CHECKED" in reports.as_text(report)
    assert check(refattn.attention, only="attention.refuse*").ok, (
        "where nothing else was asked for, they are what counts"
    )
