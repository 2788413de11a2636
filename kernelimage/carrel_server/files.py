"""Tells whether JupyterLab's static files are the image's own, or something in the home has their place."""

import os


def are_of_image(app):
    """``app`` is JupyterLab's. The root is read-only, so that what is on its file system is the
    image's. A home can bring a JupyterLab of its own, a directory named in its configuration, or an
    extension by the name of one of the image's."""
    root = os.stat("/").st_dev
    if any(os.stat(d).st_dev != root for d in [app.static_dir, *app.static_paths] if os.path.isdir(d)):
        return False
    shadowing = set()
    for directory in [*app.extra_labextensions_path, *app.labextensions_path]:
        if not os.path.isdir(directory):
            continue
        if os.stat(directory).st_dev != root:
            shadowing |= _extensions(directory)
        elif shadowing & _extensions(directory):
            return False
    return True


def _extensions(directory):
    """The names of the extensions in a directory, as "name" or "@scope/name"."""
    names = set()
    for name in os.listdir(directory):
        if name.startswith("@") and os.path.isdir(os.path.join(directory, name)):
            names |= {f"{name}/{inner}" for inner in os.listdir(os.path.join(directory, name))}
        else:
            names.add(name)
    return names
