"""The program: settings -> plan -> components -> outputs."""

import pulumi

from stack import catalog, deploy, plan, settings, targets
from stack.model import SpecError

try:
    decided = settings.from_pulumi()
    resolved = plan.build(decided, targets.profile(decided), catalog.discover())
    deploy.deploy(resolved)
except SpecError as error:
    raise pulumi.RunError(error.render()) from None
