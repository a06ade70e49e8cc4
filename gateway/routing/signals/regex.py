"""`regex`: is this pattern (or one of several) found in the last user turn?"""

import re

from gateway.chat import ChatRequest
from gateway.routing.signals import one_pattern, signal


@signal("regex", "match", prepare=one_pattern)
def regex(request: ChatRequest, argument: re.Pattern[str]) -> bool:
    return argument.search(request.last_user_text) is not None
