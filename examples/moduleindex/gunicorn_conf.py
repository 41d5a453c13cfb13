"""The settings of the example's gunicorn; workers, their class and the address come on top."""

import os

pythonpath = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
wsgi_app = "moduleindex.app:application"

# A sync worker that runs the creator answers no other request meanwhile, nor its own master: the build must end
# within the timeout, or the master kills the worker in the middle of it.
timeout = 120

# The control socket of newer versions has one fixed path per user; two servers would quarrel.
control_socket_disable = True
