"""The app: checks, commands, and error reports without secrets."""

from django.apps import AppConfig

from . import checks, debug


class EmailHostsConfig(AppConfig):
    """Registers the checks and puts the exception reporter filter in place."""

    name = "email_hosts"
    verbose_name = "Email hosts"

    def ready(self) -> None:
        """Register the checks and put the exception reporter filter in place."""
        checks.register()
        debug.install()
