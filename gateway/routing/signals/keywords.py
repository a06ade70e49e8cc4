"""`keywords`: does the last user turn hold one of these words or phrases, as whole words in any case?"""

import re

from gateway.chat import ChatRequest
from gateway.routing.signals import any_word, signal


@signal("keywords", "match", prepare=any_word)
async def keywords(request: ChatRequest, argument: re.Pattern[str]) -> bool:
    return argument.search(request.last_user_text) is not None
