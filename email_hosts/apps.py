"""The app: checks, commands, and error reports without secrets."""

from django.apps import AppConfig


class EmailHostsConfig(AppConfig):
    """Registers the checks and puts the exception reporter filter in place."""

    name = "email_hosts"
    verbose_name = "Email hosts"

    def ready(self) -> None:
        """Put in place what works for the whole project."""
        from . import checks, debug

        checks.register()
        debug.install()
