"""`regex`: is this pattern (or one of several) found in the last user turn?"""

from contextlib import suppress

from gateway.chat import ChatRequest
from gateway.patterns import Pattern, TookTooLong
from gateway.routing.signals import one_pattern, signal


@signal("regex", "match", prepare=one_pattern)
def regex(request: ChatRequest, argument: Pattern) -> bool:
    """False where the search takes too long."""
    with suppress(TookTooLong):
        return argument.is_in(request.last_user_text)
    return False
