"""Heartbeats that are obeyed. Copy this file beside your processor."""

import socket

from dory import BaseProcessor
from dory.edge.heartbeat import HeartbeatConfig, HeartbeatManager, HeartbeatResponse


class Heartbeats(HeartbeatManager):
    """Tells the orchestrator every 5 seconds that this processor lives, and stops it when told.

    The SDK starts no heartbeats by itself, and of the directive `shutdown` it only writes a line
    to the log. An orchestrator that cannot be reached costs a warning in the log, nothing more.
    """

    def __init__(self, processor: BaseProcessor) -> None:
        # The URL comes from DORY_ORCHESTRATOR_URL, the token from DORY_STATE_TOKEN.
        super().__init__(HeartbeatConfig(interval_sec=5.0, timeout_sec=4.0))
        self._context = processor.context
        node = self._context.get_env("NODE_NAME") or socket.gethostname()
        self.set_processor_info(self._context.processor_id, node)

    async def send_heartbeat(self) -> HeartbeatResponse | None:
        """One heartbeat. `shutdown`: this processor ends, or goes on elsewhere.

        So nothing is saved: the state belongs to whoever continues it.
        """
        answer = await super().send_heartbeat()
        if answer is not None and answer.directive == "shutdown":
            self._context.logger().warning("told to shut down: leaving without saving state")
            self._context.request_shutdown()  # run_loop() ends, and with it the process
        return answer
