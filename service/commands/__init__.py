"""The commands that look at a server, rather than run one."""

from service.commands.doctor import doctor
from service.commands.loadtest import loadtest
from service.commands.report import report
from service.commands.requests import request, requests

__all__ = ["doctor", "loadtest", "report", "request", "requests"]
