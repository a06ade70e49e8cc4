"""`keywords`: does the last user turn hold one of these words or phrases, as whole words in any case?"""

from gateway.chat import ChatRequest
from gateway.routing.signals import Words, any_word, signal


@signal("keywords", "match", prepare=any_word)
def keywords(request: ChatRequest, argument: Words) -> bool:
    return argument.are_in(request.last_user_text)
