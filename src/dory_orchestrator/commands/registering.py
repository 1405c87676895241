"""Commands that bring edge nodes in and out: they speak the edge API, with its token."""

from typing import Any
from uuid import UUID

import click

from dory_orchestrator.commands import tables
from dory_orchestrator.commands.asking import (
    EDGE,
    PROGRAM,
    Api,
    Failure,
    Target,
    find_node,
    run,
    target_options,
)
from dory_orchestrator.commands.completing import node_names
from dory_orchestrator.commands.deciding import confirm, yes_option
from dory_orchestrator.commands.showing import Answer, print_answer


@click.command("register-node")
@click.argument("node", metavar="NAME")
@click.option(
    "--organization", type=click.UUID, metavar="ID", required=True, help="Whose node it is."
)
@click.option(
    "--failover/--no-failover", default=None, help="Whether processors may be moved away from it."
)
@click.option(
    "--failover-target",
    metavar="NAME|ID",
    help="Edge node that its processors are moved to first.",
    shell_complete=node_names,
)
@target_options
def register_node_command(
    target: Target,
    node: str,
    organization: UUID,
    failover: bool | None,
    failover_target: str | None,
) -> None:
    """Register an edge node under its name in the cluster. Again brings the same one back.

    Needs the token of edge pods, in DORY_STATE_TOKEN.

    \b
    Examples:
      dory-orchestrator register-node edge-berlin-1 --organization 7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11
      dory-orchestrator register-node edge-berlin-1 --organization 7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11 --failover-target edge-berlin-2
    """

    async def work(api: Api) -> Answer:
        body: dict[str, Any] = {"name": node, "organization_id": str(organization)}
        if failover is not None:
            body["failover_enabled"] = failover
        if failover_target is not None:
            body["failover_target_node_id"] = await _edge_node_id(api, failover_target)
        return await api.post("/nodes", body, root=EDGE)

    answer = run(target, work)
    said = f"{answer['name']} is registered: {answer['status']}, id {answer['id']}"
    print_answer(target, answer, tables.clean(said))


async def _edge_node_id(api: Api, text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        node = await find_node(api, text, exact=True)
    if node["edge_node_id"] is None:
        raise Failure(f"{tables.clean(node['name'])} is no edge node: nothing can be moved to it")
    return str(node["edge_node_id"])


@click.command("decommission-node")
@click.argument("node", metavar="NAME", shell_complete=node_names)
@click.option(
    "--organization",
    type=click.UUID,
    metavar="ID",
    help="Where two organizations have a node of this name.",
)
@yes_option
@target_options
def decommission_node_command(
    target: Target, node: str, organization: UUID | None, yes: bool
) -> None:
    """Take an edge node out of service: its processors leave it, with their state.

    Needs the token of edge pods, in DORY_STATE_TOKEN.

    \b
    Examples:
      dory-orchestrator decommission-node edge-berlin-1
    """
    confirm(yes, f"Move all processors away from {tables.clean(node)}, for good?")
    body = {"node_name": node}
    if organization is not None:
        body["organization_id"] = str(organization)
    answer = run(target, lambda api: api.post("/nodes/decommission", body, root=EDGE))
    said = f'{node} is decommissioned: what runs there leaves ("{PROGRAM} moves --open")'
    print_answer(target, answer, tables.clean(said))
