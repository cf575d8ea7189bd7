"""The commands that look at a server, rather than run one."""

from service.commands.doctor import doctor
from service.commands.loadtest import loadtest
from service.commands.report import report

__all__ = ["doctor", "loadtest", "report"]
