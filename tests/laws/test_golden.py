"""The bits of every method's short runs are those stored for this machine (`golden.py` says how and when to store)."""

import pytest

from aihf_control import methods
from tests.laws import golden

STORED = golden.stored().get(golden.machine(), {})


@pytest.fixture(scope="module", params=golden.ENVS)
def data(request, tmp_path_factory):
    return golden.golden_data(request.param, tmp_path_factory.mktemp("golden"))


@pytest.mark.slow
@pytest.mark.skipif(not STORED, reason="no digests are stored for this machine")
@pytest.mark.parametrize("method", methods.names())
def test_a_run_gives_the_stored_bits(method, data):
    assert golden.digest(method, data) == STORED[f"{method} {data.meta['env']}"]
