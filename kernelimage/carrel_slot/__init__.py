"""A Jupyter server that is started before anybody wants it.

It owns what happens from the start of a slot until somebody claims it: everything that a server
imports is imported (``warm``), the host is told so over the control socket (``control``), and what
the claim brings, an identity and a socket to listen on, becomes the server (``wait``). It refuses to
own the server itself: that is ``carrel_server``, the same as in a container that was started cold.
"""
