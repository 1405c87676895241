"""How long tests wait for what is to come about.

A limit says when a test gives up, never how fast the program is: speed is measured by the
benchmarks. So limits are written for an idle machine, and all of them are `patient`. Where the
condition comes about, a long limit costs nothing.
"""

SLOWER_MAX = 10
"""So many times slower than an idle machine with two cores the slowest one is on which the tests
are to pass. Six busy processes beside the three of `make test` leave each a fifth of a core; the
rest is for neighbours of a virtual machine, and for disks."""


def patient(seconds: float) -> float:
    """The limit of a wait that an idle machine needs at most `seconds` for."""
    return seconds * SLOWER_MAX
