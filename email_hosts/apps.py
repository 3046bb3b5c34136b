"""The app: checks, commands, and error reports without secrets."""

from django.apps import AppConfig
from django.core.checks import register

from . import checks, debug


class EmailHostsConfig(AppConfig):
    """Registers the checks and installs the exception reporter filter."""

    name = "email_hosts"
    verbose_name = "Email hosts"

    def ready(self) -> None:
        """Do so when Django has loaded all apps."""
        register(checks.check_hosts, checks.TAG)
        register(checks.check_deployment, checks.TAG, deploy=True)
        debug.install()
