"""The start command of Carrel's kernel image.

It owns how JupyterLab is started here: what of the environment means what (``settings``), what a
safe start leaves out, and which imports wait until they are wanted (``launch``). It refuses to own
what JupyterLab does then: that is configured in files, where operators and people can change it.
"""
