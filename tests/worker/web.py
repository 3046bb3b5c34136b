"""What a server runs. Whoever loads it sends a message."""

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

import worker

wsgi = get_wsgi_application()
asgi = get_asgi_application()

# Where the server loads this before it forks, it leaves an open connection in the parent.
worker.send(worker.PARENT)
