"""What a page tells of the runs of a workdir."""

from zsg_jax.report.runs import put_together


def test_no_run_speaks_for_another():
    small, large = {"Devices": "1 × cpu", "Rows": "12"}, {"Devices": "1 × cpu", "Rows": "15"}
    assert put_together({"a": [small, small], "b": [small]}) == small
    assert put_together({"a": [small, small], "b": [large]}) == {
        "Devices": "1 × cpu",
        "Rows": "12 (a); 15 (b)",
    }
    # Seeds of one order that were trained on several machines.
    card = {**small, "Devices": "1 × card"}
    assert (
        put_together({"a": [small, card], "b": [small]})["Devices"]
        == "1 × cpu (2 runs); 1 × card (1 run)"
    )
    # What some do not say is not said for all.
    assert put_together({"a": [small], "b": [{"Devices": "1 × cpu"}]}) == {
        "Devices": "1 × cpu",
        "Rows": "12 (a)",
    }
