"""Ranks on several hosts, truly over a network: delay, loss, and a cable that is pulled out.

Hosts are network namespaces (network.py), one rank on each. Truth: as many ranks on one machine.
"""

import re
import time

import pytest

import network
import runs
from launching import Launched, assert_same_bits, free_port, steps_of

HOSTS = 3
STEPS = 12
# How long a silent rank is waited for, in seconds; and how much later all must have ended.
TIMEOUT_S, SLACK_S = 20, 25
PLAIN = {"steps": STEPS, "train": {"threads": 1, "timeout_s": TIMEOUT_S, "heartbeat_s": 10}, "checkpoint": {"every": 4, "keep": 2}}
# Slow enough to be cut in its middle, by its size on any machine.
SLOW = PLAIN | {"steps": 60, "checkpoint": {"every": 10, "keep": 2}, "objective.width": 192, "objective.depth": 4,
                "clip.num_frames": 16}


class Ranks:
    """One Launched for each rank."""

    def __init__(self, launched):
        self.launched = launched

    def wait(self, seconds=180):
        until = time.monotonic() + seconds
        return [one.process.wait(timeout=max(1, until - time.monotonic())) for one in self.launched]

    def said(self):
        return "\n".join(f"rank {rank}: {one.said()}" for rank, one in enumerate(self.launched))

    def wait_for_step(self, run, step):
        self.launched[0].wait_for_step(run, step)

    def end(self):
        for one in self.launched:
            one.end()


@pytest.fixture(scope="module")
def hosts():
    """hosts(...): a Network of HOSTS hosts; gone at the end, with all that was made of them."""
    missing = network.missing()
    if missing:
        pytest.skip(f"NO HOSTS OF OUR OWN, {missing}: nothing is proven about several machines in this run")
    made = []

    def make(**options):
        made.append(network.Network(HOSTS, **options))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture(scope="module")
def switched(hosts):
    """Hosts on a switch that works, when nobody pulls a cable."""
    return hosts()


@pytest.fixture
def start(keiko_bin, keiko_env, drift, tmp_path):
    """start(changes, network, name): HOSTS ranks on the hosts of a network, or all here when it is None."""
    started = []

    def ranks_of(changes, among=None, name="run", variables=None):
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN, {
            "data": str(drift / "train.kix"), "run": str(tmp_path / name)} | changes)
        port, launched = str(free_port()), []
        for rank in range(HOSTS):
            env = keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(HOSTS), "MASTER_PORT": port,
                               "LOCAL_RANK": "0" if among else str(rank),
                               "MASTER_ADDR": among.address(1) if among else "127.0.0.1"} | (variables or {})
            command = [keiko_bin, "train", recipe]
            launched.append(Launched(keiko_bin, recipe, among.command(rank + 1, *command) if among else command, env,
                                     tmp_path / f"{name}-{rank}.txt"))
            started.append(launched[-1])
        return Ranks(launched), tmp_path / name

    yield ranks_of
    for one in started:
        one.end()


def finish(ranks):
    assert ranks.wait() == [0] * HOSTS, ranks.said()


def test_ranks_on_three_hosts_train_the_bits_of_three_on_one_machine(start, switched):
    here, wanted = start(PLAIN, None, "here")
    finish(here)
    there, found = start(PLAIN, switched, "there")
    finish(there)
    assert_same_bits(found, wanted, HOSTS, STEPS)


def test_delay_and_loss_cost_time_and_nothing_else(start, hosts):
    """5 ms each way, and every fiftieth frame lost."""
    here, wanted = start(PLAIN, None, "here")
    finish(here)
    bad = hosts(delay_s=0.005, loss=0.02)
    there, found = start(PLAIN, bad, "there")
    finish(there)
    counts = bad.remove()
    assert counts["lost"] > 10 and counts["carried"] > 500, f"the wire had little to do: {counts}"
    assert_same_bits(found, wanted, HOSTS, STEPS)


def test_a_short_outage_is_waited_out(start, switched):
    here, wanted = start(SLOW, None, "here")
    finish(here)
    there, found = start(SLOW, switched, "there")
    there.wait_for_step(found, 15)
    switched.cut(2)
    time.sleep(2)
    reached = steps_of(found)
    time.sleep(0.5)
    assert steps_of(found) == reached < SLOW["steps"], "the cable was out, and the run went on"
    switched.mend(2)
    finish(there)
    assert_same_bits(found, wanted, HOSTS, SLOW["steps"])


@pytest.mark.parametrize("host", [1, 3])
def test_a_cut_link_ends_every_rank_and_starting_again_goes_on(start, switched, host):
    """Also the host that is cut off itself, and the one that serves the store (node1)."""
    here, wanted = start(SLOW, None, "here")
    finish(here)
    there, found = start(SLOW, switched, "there")
    there.wait_for_step(found, 15)
    switched.cut(host)
    codes = there.wait(TIMEOUT_S + SLACK_S)
    assert all(code not in (0, 75) for code in codes), there.said()
    for rank, one in enumerate(there.launched):
        assert re.search(r"keiko train: (rank \d \(.+\) has not answered|.*the store of rank 0 at \S+ has not answered|lost the store)", one.said()), f"rank {rank} names nobody: {one.said()}"
    assert steps_of(found) < SLOW["steps"]
    switched.mend(host)
    again, found = start(SLOW, switched, "there")
    finish(again)
    assert_same_bits(found, wanted, HOSTS, SLOW["steps"])


def test_the_interface_may_be_named_where_a_host_calls_itself_by_a_loopback_address(start, hosts):
    """Debian's installer writes `127.0.1.1 NAME` into /etc/hosts: others cannot reach what is said there."""
    own = hosts()
    for host in own.hosts:
        own.set_up(host, own_address="127.0.1.1")
    ranks, _ = start(PLAIN, own, "named", {"GLOO_SOCKET_IFNAME": "eth0"})
    finish(ranks)
