from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clustering import QUICK, Cluster, Rabbit, Redis, talkative


@pytest.fixture(scope="session")
def shared(
    tmp_path_factory: pytest.TempPathFactory, rabbit: Rabbit, redis: Redis, cluster_models: Path
) -> Iterator[Cluster]:
    """Two API nodes and three workers that tests share: they kill none of them."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), rabbit, redis, cluster_models, QUICK)
    try:
        made.start(workers=3, nodes=2, config=talkative)
        yield made
    finally:
        made.close()
