"""The JupyterHub that the benchmark measures beside Carrel: its own documentation's DockerSpawner
set-up, with the limits, the contents and the kept home that Carrel's default profile has."""

import os

c = get_config()  # noqa: F821

state = os.environ["BENCH_STATE"]
network = os.environ["BENCH_NETWORK"]
gateway = os.environ["BENCH_GATEWAY"]

c.JupyterHub.log_level = "WARN"
c.JupyterHub.db_url = f"sqlite:///{state}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{state}/cookie_secret"
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['BENCH_PORT']}/"
c.JupyterHub.hub_ip = gateway
c.JupyterHub.hub_port = int(os.environ["BENCH_HUB_PORT"])
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['BENCH_PROXY_PORT']}"
c.ConfigurableHTTPProxy.command = [os.environ["BENCH_PROXY"]]
c.ConfigurableHTTPProxy.auth_token = os.environ["BENCH_TOKEN"]
c.ConfigurableHTTPProxy.pid_file = f"{state}/proxy.pid"

c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True

# A program with a token, as its documentation says: it may start and stop servers and open them.
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [
    {
        "name": "bench",
        "scopes": ["admin:users", "admin:servers", "access:servers"],
        "services": ["bench"],
    }
]

c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = os.environ["BENCH_IMAGE"]
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.prefix = os.environ["BENCH_PREFIX"]
c.DockerSpawner.remove = True
c.DockerSpawner.network_name = network
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.cmd = ["jupyterhub-singleuser"]
c.DockerSpawner.notebook_dir = os.environ["BENCH_HOME"]
c.DockerSpawner.volumes = {os.environ["BENCH_PREFIX"] + "-{username}": os.environ["BENCH_HOME"]}
c.DockerSpawner.mem_limit = int(os.environ["BENCH_MEMORY"])
c.DockerSpawner.cpu_limit = float(os.environ["BENCH_CPU"])
c.DockerSpawner.extra_host_config = {
    "memswap_limit": int(os.environ["BENCH_MEMORY"]),
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 512,
}
c.Spawner.default_url = "/lab"
c.Spawner.start_timeout = 180
c.Spawner.http_timeout = 120
