"""Paired timings: every round runs all sides, ratios are of one round."""

import json
import sys

import pytest

from mmsnn.analysis import pairing


def test_rounds_run_all_sides_and_begin_with_another_one(monkeypatch):
    monkeypatch.setattr(pairing, 'SETTLE', 0)
    order = []

    def side(name, seconds):
        return lambda: order.append(name) or next(seconds)

    a, b = iter([9.0, 9.0, 1.0, 9.0, 2.0, 9.0, 4.0]), iter([9.0, 9.0, 3.0, 9.0, 4.0, 9.0, 8.0])
    found = pairing.interleave({'a': side('a', a), 'b': side('b', b)}, rounds=3, warm_up=1)
    assert order == ['a', 'b'] + ['a', 'a', 'b', 'b'] + ['b', 'b', 'a', 'a'] + ['a', 'a', 'b', 'b']
    assert found == {'a': [1.0, 2.0, 4.0], 'b': [3.0, 4.0, 8.0]}
    table = pairing.compare(found, 'a')
    assert table['a']['ratio'] == dict(low=1.0, median=1.0, high=1.0)
    assert table['b']['ratio']['median'] == 2.0 and table['b']['milliseconds']['median'] == 4000.0
    assert 'b' in pairing.lines(table)[1] and '2.00 x' in pairing.lines(table)[1]


def test_result_file(tmp_path):
    path = tmp_path / 'new/result.json'
    pairing.save(path, pairing.circumstances(), [dict(T=4)])
    found = json.loads(path.read_text())
    assert found['results'] == [dict(T=4)] and {'command', 'commit', 'machine', 'versions', 'ops'} <= found.keys()


def test_peer(tmp_path):
    script = tmp_path / 'peer.py'
    script.write_text(
        'import json, sys\n'
        'for line in sys.stdin:\n'
        '    request = json.loads(line)\n'
        '    if request["op"] == "fail": raise SystemError("no such thing")\n'
        '    print(json.dumps(dict(twice=2 * request["n"])), flush=True)\n'
    )
    peer = pairing.Peer(script, sys.executable)
    assert peer.ask(op='double', n=21) == dict(twice=42)
    with pytest.raises(RuntimeError, match='fail: SystemError: no such thing'):
        peer.ask(op='fail')
    peer.close()
