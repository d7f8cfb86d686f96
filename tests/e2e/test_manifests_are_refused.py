"""Every rule of the CRD, asked by `kubectl apply` as people ask it: refused, with what to do about it."""

from __future__ import annotations

import json

import pytest
from kube.test_the_schema import CHANGES, CREATION
from kube.world import changed, plain

from e2e.world import Refused, Stage, default_storage_class, kubectl
from kingbus_operator.api.types import Json
from kingbus_operator.planning.observed import dig


def _refusal(stage: Stage, body: Json, path: str, value: object) -> str:
    wrong = changed(changed(body, path, value), "metadata.namespace", stage.where)
    with pytest.raises(Refused) as caught:
        kubectl("apply", "--dry-run=server", "-f", "-", text=json.dumps(wrong))
    return str(caught.value)


def test_what_makes_no_sense_is_refused_with_advice(stage: Stage) -> None:
    for path, value, message in CREATION:
        assert message in _refusal(stage, plain(), path, value), (path, value)


def test_a_change_that_cannot_be_is_refused_and_changes_nothing(stage: Stage) -> None:
    chosen = changed(stage.manifest(), "spec.storage.storageClassName", default_storage_class())
    body = changed(chosen, "spec.source.flavor", "MySQL")
    stage.apply(body)
    stage.wait_settled(3)
    stage.replica()

    with stage.load():
        for path, value, message in CHANGES:
            assert message in _refusal(stage, body, path, value), (path, value)
    assert dig(stage.cluster(), "metadata", "generation") == 1
