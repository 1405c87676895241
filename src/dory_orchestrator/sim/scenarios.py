"""What goes wrong, and when. Each scenario is a plan of faults over the simulated hours."""

from collections.abc import Callable, Mapping

from dory_orchestrator.sim.cluster import Machine
from dory_orchestrator.sim.ground import Fault
from dory_orchestrator.sim.simulation import Outcome, Setup, Simulation, change_template

_JUMP_BACK_SECONDS_MAX = 40.0
_STEP_SECONDS_MAX = 2.0


class Injector:
    """Injects faults into a simulation, and counts them by kind."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.ground = simulation.ground
        self.versions = [1, 1]
        machines = simulation.cluster.machines.values()
        self.edges = [machine for machine in machines if machine.edge_node_id is not None]
        self.clouds = [machine for machine in machines if machine.edge_node_id is None]

    def _edge(self) -> Machine:
        return self.ground.random.choice(self.edges)

    def _seconds(self) -> float:
        """Of a trouble: mostly shorter or little longer than what makes a node dead."""
        return self.ground.random.choice((5.0, 20.0, 45.0, 80.0, 120.0, 200.0)) * (
            0.5 + self.ground.random.random()
        )

    def _trouble(self, fault: Fault, machine: Machine, what: str, seconds: float) -> None:
        self.ground.fault(fault, f"{machine.name} for {seconds:.0f} s")
        self.simulation.cluster.trouble(machine, what, seconds)

    # Nodes

    def node_down(self) -> None:
        self._trouble(Fault.NODE_DOWN, self._edge(), "downs", self._seconds())

    def node_cut(self) -> None:
        self._trouble(Fault.NODE_CUT, self._edge(), "cuts", self._seconds())

    def node_mute(self) -> None:
        self._trouble(Fault.NODE_MUTE, self._edge(), "mutes", self._seconds())

    def node_dark(self) -> None:
        """Nothing of it reaches us, and yet the cluster calls it Ready."""
        machine, seconds = self._edge(), self._seconds()
        self._trouble(Fault.NODE_DARK, machine, "mutes", seconds)
        self.simulation.cluster.trouble(machine, "unasked", seconds)

    def poller_cut(self) -> None:
        self._trouble(Fault.POLLER_CUT, self._edge(), "unasked", self._seconds())

    def node_flap(self) -> None:
        self._flap(self._edge(), self.ground.random.randint(2, 4))

    def _flap(self, machine: Machine, times: int) -> None:
        seconds = self.ground.between(3.0, 60.0)
        self._trouble(Fault.NODE_FLAP, machine, "cuts", seconds)
        if times > 1:
            rest = seconds + self.ground.between(1.0, 40.0)
            self.ground.after(rest, self._flap, machine, times - 1)

    def application_node_down(self) -> None:
        machine = self.ground.random.choice(self.clouds)
        if not any(other.is_up for other in self.clouds if other is not machine):
            return
        self._trouble(Fault.APPLICATION_NODE_DOWN, machine, "downs", self._seconds())

    def site_outage(self, share: float | None = None, seconds: float | None = None) -> None:
        """Several nodes go within one heartbeat interval."""
        random = self.ground.random
        count = max(2, int(len(self.edges) * (share or random.choice((0.3, 0.6, 1.0)))))
        what = random.choice(("downs", "cuts"))
        chosen = random.sample(self.edges, min(count, len(self.edges)))
        lasts = seconds or self._seconds()
        names = ", ".join(machine.name for machine in chosen[:6])
        self.ground.fault(Fault.SITE_OUTAGE, f"{len(chosen)} nodes for {lasts:.0f} s: {names}")
        for machine in chosen:
            self.ground.after(
                self.ground.between(0.0, 5.0),
                self.simulation.cluster.trouble,
                machine,
                what,
                lasts,
            )

    # We ourselves

    def database_outage(self, seconds: float | None = None) -> None:
        lasts = seconds or self.ground.random.choice((2.0, 8.0, 30.0, 150.0)) * self.ground.between(
            0.5, 1.5
        )
        self.ground.fault(Fault.DATABASE_OUTAGE, f"for {lasts:.0f} s")
        self.simulation.database.outages += 1
        self.simulation.hearing_changed()
        self.ground.after(lasts, self._database_back)

    def _database_back(self) -> None:
        self.simulation.database.outages -= 1
        self.simulation.count_losses()
        self.simulation.hearing_changed()
        self.simulation.wake()

    def api_outage(self) -> None:
        lasts = self.ground.between(1.0, 100.0)
        self.ground.fault(Fault.API_OUTAGE, f"for {lasts:.0f} s")
        self.simulation.api_outages += 1
        self.simulation.hearing_changed()
        self.ground.after(lasts, self._api_back)

    def _api_back(self) -> None:
        self.simulation.api_outages -= 1
        self.simulation.hearing_changed()

    def leader_killed(self) -> None:
        alive = [one for one in self.simulation.orchestrators if one.is_alive]
        if not alive:
            return
        victim = next((one for one in alive if one.lease is not None), alive[0])
        lasts = self.ground.between(0.5, 60.0)
        self.ground.fault(Fault.LEADER_KILLED, f"{victim.name} for {lasts:.0f} s")
        victim.kill()
        self.simulation.count_losses()
        self.simulation.hearing_changed()
        self.ground.after(lasts, self._start, victim.name)

    def _start(self, name: str) -> None:
        for one in self.simulation.orchestrators:
            if one.name == name and not one.is_alive:
                one.start()
        self.simulation.count_losses()
        self.simulation.hearing_changed()

    def leader_frozen(self) -> None:
        running = [one for one in self.simulation.orchestrators if one.is_running]
        if not running:
            return
        victim = next((one for one in running if one.lease is not None), running[0])
        lasts = self.ground.between(1.0, 40.0)
        self.ground.fault(Fault.LEADER_FROZEN, f"{victim.name} for {lasts:.0f} s")
        victim.freeze(lasts)
        self.simulation.count_losses()
        self.simulation.hearing_changed()
        self.ground.after(lasts, self._thawed)

    def _thawed(self) -> None:
        self.simulation.count_losses()
        self.simulation.hearing_changed()

    def clock_step(self) -> None:
        """The database's clock against all others: within what clocks may differ."""
        before = self.ground.database_now
        self.ground.database_offset = self.ground.between(-_STEP_SECONDS_MAX, _STEP_SECONDS_MAX)
        self.ground.fault(Fault.CLOCK_STEP, f"{self.ground.database_now - before:+.1f} s")
        self.simulation.database.clock_changed(before)

    def clock_jump(self) -> None:
        """All clocks together."""
        before = self.ground.database_now
        seconds = self.ground.between(-_JUMP_BACK_SECONDS_MAX, 200.0)
        self.ground.jumped += seconds
        self.ground.fault(Fault.CLOCK_JUMP, f"{seconds:+.0f} s")
        self.simulation.count_losses()
        self.simulation.database.clock_changed(before)

    def watch_stalled(self) -> None:
        one = self.ground.random.choice(self.simulation.orchestrators)
        lasts = self.ground.between(1.0, 15.0)
        self.ground.fault(Fault.WATCH_STALLED, f"{one.name} for {lasts:.0f} s")
        one.stalled_until = max(one.stalled_until, self.ground.now + lasts)
        self.simulation.stalled.append((self.ground.now, one.stalled_until))
        self.simulation.count_losses()

    # The desired set

    def pod_crash(self) -> None:
        processes = list(self.simulation.cluster.processes.values())
        if not processes:
            return
        process = self.ground.random.choice(processes)
        loops = self.ground.chance(0.3) and process.node.is_connected
        self.ground.fault(Fault.POD_CRASH, f"{process.name} on {process.node.name}")
        self.simulation.cluster.crash(process, loops=loops)

    def config_change(self) -> None:
        template = self.ground.random.randint(0, 1)
        self.versions[template] += 1
        self.ground.fault(Fault.CONFIG_CHANGE, f"camera-{template}: {self.versions[template]}")
        change_template(self.simulation, template, self.versions[template])

    def removal(self) -> None:
        database = self.simulation.database
        if not database.configs or len(self.simulation.removed) > 2 or database.vanished:
            return
        key = self.ground.random.choice(list(database.configs))
        self.simulation.removed[key] = database.configs.pop(key)
        self.ground.fault(Fault.REMOVAL, f"processor {key.int % 1_000_000}")
        self.simulation.wake()
        self.ground.after(self.ground.between(5.0, 120.0), self._return)

    def _return(self) -> None:
        database = self.simulation.database
        if database.vanished:
            self.ground.after(10.0, self._return)
            return
        key = next(iter(self.simulation.removed), None)
        if key is not None:
            database.configs[key] = self.simulation.removed.pop(key)
            self.simulation.wake()

    def rows_vanish(self) -> None:
        """Somebody empties the table, and puts it back."""
        database = self.simulation.database
        if database.vanished or not database.configs:
            return
        lasts = self.ground.between(2.0, 60.0)
        self.ground.fault(Fault.ROWS_VANISH, f"{len(database.configs)} for {lasts:.0f} s")
        database.vanished = dict(database.configs)
        database.configs.clear()
        self.simulation.wake()
        self.ground.after(lasts, self._rows_return)

    def _rows_return(self) -> None:
        database = self.simulation.database
        database.configs.update(database.vanished)
        database.vanished = {}
        self.simulation.wake()


Kind = Callable[[Injector], None]

_ALL: tuple[tuple[Kind, float], ...] = (
    (Injector.node_down, 1.5),
    (Injector.node_cut, 1.5),
    (Injector.node_mute, 1.0),
    (Injector.node_dark, 1.0),
    (Injector.poller_cut, 1.0),
    (Injector.node_flap, 0.6),
    (Injector.application_node_down, 1.2),
    (Injector.site_outage, 1.0),
    (Injector.database_outage, 1.0),
    (Injector.api_outage, 1.0),
    (Injector.leader_killed, 1.1),
    (Injector.leader_frozen, 1.2),
    (Injector.clock_step, 1.0),
    (Injector.clock_jump, 1.0),
    (Injector.watch_stalled, 1.0),
    (Injector.pod_crash, 1.2),
    (Injector.config_change, 1.0),
    (Injector.removal, 1.3),
    (Injector.rows_vanish, 1.3),
)
_OF_SCENARIO: Mapping[str, tuple[tuple[Kind, float], ...]] = {
    "random": _ALL,
    "site-outage": ((Injector.site_outage, 1.0),),
    "flapping": ((Injector.node_flap, 1.0),),
    "partition": ((Injector.node_cut, 1.0), (Injector.node_dark, 0.5)),
    "db-outage": ((Injector.database_outage, 3.0), (Injector.node_down, 1.0)),
    "restart": (
        (Injector.leader_killed, 2.0),
        (Injector.leader_frozen, 2.0),
        (Injector.node_down, 1.0),
    ),
    "mass-failure": (),
}
SCENARIOS = tuple(_OF_SCENARIO)
_CALL_FAULTS = 0.08
_BEATS_LOST = 0.01


def simulate(setup: Setup) -> Outcome:
    """Run one scenario to its quiet end."""
    return Simulation(setup).run(lambda simulation: _inject(simulation, setup))


def _inject(simulation: Simulation, setup: Setup) -> None:
    injector = Injector(simulation)
    if setup.scenario == "random":
        simulation.beats_lost_share = _BEATS_LOST
        for orchestrator in simulation.orchestrators:
            orchestrator.call_faults = _CALL_FAULTS
    if setup.scenario == "mass-failure":
        _fail_all(injector)
        return
    kinds = _OF_SCENARIO[setup.scenario]
    simulation.ground.after(0.0, _next, injector, kinds, setup.fault_seconds)


def _next(injector: Injector, kinds: tuple[tuple[Kind, float], ...], mean: float) -> None:
    if injector.simulation.is_over:
        return
    random = injector.ground.random
    [kind] = random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    kind(injector)
    injector.ground.after(random.expovariate(1.0 / mean), _next, injector, kinds, mean)


def _fail_all(injector: Injector) -> None:
    """All nodes at once, again and again: the brake holds each time."""
    if injector.simulation.is_over:
        return
    injector.site_outage(share=1.0, seconds=injector.ground.between(100.0, 600.0))
    injector.ground.after(injector.ground.between(1200.0, 1800.0), _fail_all, injector)
