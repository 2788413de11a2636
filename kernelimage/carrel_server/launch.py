def main():
    import os
    e = os.environ
    from jupyterlab.labapp import LabApp
    argv = ["--ServerApp.ip=0.0.0.0", "--ServerApp.port=" + e.get("CARREL_PORT", "8888"), "--ServerApp.base_url=" + e.get("CARREL_BASE_URL", "/"),
            "--ServerApp.root_dir=" + e["HOME"], "--ServerApp.allow_remote_access=True", "--ServerApp.open_browser=False",
            "--IdentityProvider.token=" + e.pop("CARREL_TOKEN", "")]
    app = LabApp.initialize_server(argv)
    app.start()
