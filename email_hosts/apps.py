"""The app: checks, commands, and error reports without secrets."""

from django.apps import AppConfig

from . import checks, debug


class EmailHostsConfig(AppConfig):
    """Registers the checks and installs the exception reporter filter."""

    name = "email_hosts"
    verbose_name = "Email hosts"

    def ready(self) -> None:
        """Do so when Django has loaded all apps."""
        checks.register()
        debug.install()
