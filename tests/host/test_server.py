"""The harness itself: stock nodes on the random checkpoint, in both ways of running the host."""

import pytest
from server import COMFY


def test_stock_nodes_make_a_finite_picture(server, stock_prompt):
    result = server.run(stock_prompt("a cat", px=64, steps=2))
    assert result.status == "success", result.error
    (picture,) = server.pictures(result, "save")
    assert picture.size == (64, 64)
    assert all(low != high for low, high in picture.getextrema())
    assert result.previews


def test_both_hosts_open_the_checkpoint(checkpoint, base):
    from cidm_core.diffusers_host.load import load_base

    found = load_base(base / "models/checkpoints" / checkpoint.name, device="cpu", dtype="fp32")
    assert found.family.name == "SD15"
    assert len(found.layers) == 4


def test_a_bad_prompt_is_rejected_and_the_server_lives_on(server):
    result = server.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})
    assert result.status == "rejected"
    assert "NoSuchNode" in str(result.error)
    assert server.alive


def test_interrupt(server, stock_prompt):
    def cancel(kind, data):
        if kind == "preview":
            server.interrupt()

    result = server.run(stock_prompt("a dog", px=64, steps=50), cancel)
    assert result.status == "interrupted"


def test_script_in_host(in_host, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, inside\n"
        "from importlib.util import find_spec\n"
        "pack = inside.pack('nodes.host.sockets')\n"
        "places = [find_spec(name).origin for name in ('nodes', 'server')]\n"
        "inside.report([pack.CATEGORY, sys.argv[1], *places])\n"
    )
    assert in_host(script, "word") == [
        "CIDM",
        "word",
        str(COMFY / "nodes.py"),
        str(COMFY / "server.py"),
    ]


@pytest.mark.parametrize(
    ("body", "seconds", "said"),
    [
        ("raise ValueError('what was wrong')", 60, "ended with 1:(?s:.*)what was wrong"),
        ("import os; print('so far', flush=True); os.abort()", 60, "ended with -6:\nso far"),
        ("import time; time.sleep(60)", 1, "ended with -14"),
        ("raise SystemExit('refused')", 60, "refused"),
    ],
)
def test_a_script_that_fails_says_why_and_the_next_one_runs(in_host, tmp_path, body, seconds, said):
    script = tmp_path / "script.py"
    script.write_text(body)
    with pytest.raises(AssertionError, match=said):
        in_host(script, timeout=seconds)
    script.write_text("import inside; inside.report(3)")
    assert in_host(script) == 3
