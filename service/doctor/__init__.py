"""What is set up, what is wrong with it, and how to mend it. Looking changes nothing."""

from service.doctor.examination import examine
from service.doctor.finding import Finding

__all__ = ["Finding", "examine"]
