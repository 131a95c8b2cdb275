"""Several hosts on one machine: network namespaces joined by a bridge, each with an address and a hostname.

They share the disk, as a cluster's hosts share a file system. mpirun starts its daemons there through its own
remote-agent option, which otherwise names ssh."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

import runs

# As under ssh, the command finds no variables of ours. As ssh, the agent ends with the remote command, but hears
# nothing from a host that is cut off.
AGENT = """#!/bin/bash
host=$1
shift
[ -e /run/netns/{prefix}$host ] || exit 255
env -i PATH="$PATH" HOME="$HOME" ip netns exec {prefix}$host unshare --uts sh -c "hostname $host; $*" &
{{ wait $!; code=$?; }} 2>/dev/null
for i in $(seq 100); do
    ip -n {prefix}$host link show eth0 | grep -q 'state UP' && exit $code
    sleep 0.2
done
"""


class Hosts:
    """h1 to hN at 10.77.0.1 to .N; mpirun runs on h1."""

    def __init__(self, count, directory):
        self.names = [f"h{i + 1}" for i in range(count)]
        self.prefix = f"fucina-{os.getpid()}-"
        self.agent = directory / "agent.sh"
        self.agent.write_text(AGENT.format(prefix=self.prefix))
        self.agent.chmod(0o755)

    def ip(self, *words):
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

    def start(self):
        switch = self.prefix + "switch"
        self.ip("netns", "add", switch)
        self.ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        self.ip("-n", switch, "link", "set", "bridge", "up")
        known = "127.0.0.1 localhost\n" + "".join(f"10.77.0.{i + 1} {name}\n" for i, name in enumerate(self.names))
        for i, name in enumerate(self.names):
            host = self.prefix + name
            self.ip("netns", "add", host)
            self.ip("-n", host, "link", "set", "lo", "up")
            self.ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", name, "netns", switch)
            self.ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            self.ip("-n", host, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            self.ip("-n", host, "link", "set", "eth0", "up")
            # Words under way to a host that is cut off are sent again for 3 s, not for 15 minutes.
            self.ip("netns", "exec", host, "sh", "-c", "echo 3 >/proc/sys/net/ipv4/tcp_retries2")
            folder = pathlib.Path("/etc/netns") / host  # which `ip netns exec` lays over /etc
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(known)

    def end(self):
        for name in [*self.names, "switch"]:
            self.kill(name)
            subprocess.run(["ip", "netns", "delete", self.prefix + name], capture_output=True)
            folder = pathlib.Path("/etc/netns") / (self.prefix + name)
            (folder / "hosts").unlink(missing_ok=True)
            if folder.exists():
                folder.rmdir()

    def processes(self, name):
        done = subprocess.run(["ip", "netns", "pids", self.prefix + name], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self, name):
        for pid in self.processes(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def link(self, name, state):
        self.ip("-n", self.prefix + name, "link", "set", "eth0", state)

    def slow_down(self, name, rate):
        """What the host sends, to a rate such as "100mbit"; None: as fast as before."""
        device = ["netns", "exec", self.prefix + name, "tc", "qdisc"]
        if rate:
            self.ip(*device, "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")
        else:
            self.ip(*device, "delete", "dev", "eth0", "root")

    def mpirun(self, *arguments, env=None):
        """launch/mpirun.sh on h1, started. Loss of a host is noticed after 3 s."""
        settings = {"FUCINA_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_oob_tcp_keepalive_time": "1",
                    "OMPI_MCA_oob_tcp_keepalive_probes": "2", "FUCINA_HOST_TIMEOUT": "3", **(env or {})}
        command = ["ip", "netns", "exec", self.prefix + "h1", "unshare", "--uts", "sh", "-c", 'hostname h1; exec "$@"', "sh",
                   runs.MPIRUN, "--mca", "plm_rsh_agent", str(self.agent), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, **settings})

    def is_empty_within(self, name, seconds):
        for _ in range(int(seconds / 0.1)):
            if not self.processes(name):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Four hosts, all up again before each test asks for them."""
    if not shutil.which("ip"):
        pytest.skip("this machine has no `ip`: apt-get install iproute2")
    made = Hosts(4, tmp_path_factory.mktemp("hosts"))
    try:
        made.start()
    except (OSError, subprocess.CalledProcessError) as error:
        made.end()
        pytest.skip(f"this machine makes no network namespaces: {getattr(error, 'stderr', None) or error}")
    yield made
    made.end()
