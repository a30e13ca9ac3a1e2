"""Hosts of our own: network namespaces, each with its own name, address and hosts file, joined by a switch.

A host is `nodeN` at 10.77.0.N on `eth0`. The switch is a namespace too, with a bridge, so the machine's own
network is not touched. With `delay_s` or `loss` a program (wire.py) takes the place of the bridge.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"


def ip(*args, check=True):
    done = subprocess.run([shutil.which("ip", path=PATH), *map(str, args)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"ip {' '.join(map(str, args))}: {done.stderr.strip()}"
    return done


def missing():
    """What keeps hosts from being made here, in words; empty when nothing does."""
    if not shutil.which("ip", path=PATH):
        return "ip is not installed (Debian: iproute2)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    name = f"keiko-{os.getpid()}-try"
    done = ip("netns", "add", name, check=False)
    ip("netns", "del", name, check=False)
    return f"network namespaces are not permitted ({done.stderr.strip()})" if done.returncode else ""


class Network:
    made = 0

    def __init__(self, hosts, delay_s=0, loss=0, seed=1):
        Network.made += 1
        self.prefix = f"keiko-{os.getpid()}-{Network.made}"
        self.hosts, self.wire = list(range(1, hosts + 1)), None
        self.switch = f"{self.prefix}-switch"
        try:
            for namespace in (self.switch, *map(self.namespace, self.hosts)):
                ip("netns", "add", namespace)
                ip("-n", namespace, "link", "set", "lo", "up")
            self.plug_into_wire(delay_s, loss, seed) if delay_s or loss else self.plug_into_bridge()
            for host in self.hosts:
                self.set_up(host)
        except BaseException:
            self.remove()
            raise

    def namespace(self, host):
        return f"{self.prefix}-node{host}"

    def address(self, host):
        return f"10.77.0.{host}"

    def plug_into_bridge(self):
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for host in self.hosts:
            ip("-n", self.switch, "link", "add", f"port{host}", "type", "veth", "peer", "name", "eth0", "netns",
               self.namespace(host))
            ip("-n", self.switch, "link", "set", f"port{host}", "master", "bridge", "up")

    def plug_into_wire(self, delay_s, loss, seed):
        program = [sys.executable, str(Path(__file__).with_name("wire.py")), delay_s, loss, seed]
        self.wire = subprocess.Popen(
            [shutil.which("ip", path=PATH), "netns", "exec", self.switch, *map(str, program),
             *(f"port{host}" for host in self.hosts)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.wire.stdout.readline() == "ready\n"
        for host in self.hosts:  # the wire keeps the other end, wherever the device goes
            ip("-n", self.switch, "link", "set", f"port{host}", "netns", self.namespace(host), "name", "eth0")

    def set_up(self, host, own_address=None):
        """`own_address` is what the host's file says of itself: what other hosts see, unless told otherwise."""
        namespace = self.namespace(host)
        ip("-n", namespace, "addr", "replace", f"{self.address(host)}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        folder = Path("/etc/netns") / namespace  # `ip netns exec` puts it over /etc
        folder.mkdir(parents=True, exist_ok=True)
        lines = {f"node{h}": self.address(h) for h in self.hosts} | {"localhost": "127.0.0.1"}
        lines[f"node{host}"] = own_address or self.address(host)
        (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in lines.items()))

    def command(self, host, *command):
        """The command, as it must be started to run on that host."""
        return [shutil.which("ip", path=PATH), "netns", "exec", self.namespace(host), "unshare", "--uts", "sh", "-c",
                f'hostname node{host} && exec "$0" "$@"', *map(str, command)]

    def cut(self, host):
        """Pulls the cable out of the switch: nobody gets an answer any more, and nobody a refusal."""
        ip("-n", self.switch, "link", "set", f"port{host}", "down")

    def mend(self, host):
        ip("-n", self.switch, "link", "set", f"port{host}", "up")

    def remove(self):
        """The network is gone after this. {"carried": n, "lost": n} of the wire, if there was one."""
        counts = None
        if self.wire:
            counts = json.loads(self.wire.communicate(timeout=20)[0] or "null")
        for namespace in (*map(self.namespace, self.hosts), self.switch):
            ip("netns", "del", namespace, check=False)
            shutil.rmtree(Path("/etc/netns") / namespace, ignore_errors=True)
        try:
            Path("/etc/netns").rmdir()
        except OSError:
            pass  # there are others
        return counts
