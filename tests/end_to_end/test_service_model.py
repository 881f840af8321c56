"""The service does what its model does, whatever two clients do at once: see `service_machine`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.service_machine import ServiceMachine
from tests.end_to_end.service_model import MAX_IMAGES

ACTS = ("rename", "describe", "join", "tag", "deprecate", "publicize", "publish", "delete", "copy", "share")
MET = {"two at once", "refused", *(f"{act} done" for act in ACTS)}


@pytest.mark.timeout(600)
def test_two_clients_never_see_what_no_order_of_their_calls_explains(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    class Machine(ServiceMachine):
        daemon = start_daemon(quotas__images=MAX_IMAGES)

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
    assert set(Machine.happened) >= MET, Machine.happened
