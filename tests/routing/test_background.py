"""The chores of real clients are known as such, and what people write is not."""

import pytest

from gateway.chat import ChatRequest
from gateway.routing.signals.background import background

CHORES = {
    "Open WebUI title": "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    "### Guidelines:\n- The title should clearly represent the main theme or subject of the conversation.",
    "Open WebUI tags": "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, along "
    "with 1-3 more specific subtopic tags.",
    "Open WebUI follow-ups": "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might "
    "naturally ask next in this conversation as a **user**, based on the chat history",
    "Open WebUI search": "### Task:\nAnalyze the chat history to determine the necessity of generating search queries, "
    "in the given language.",
    "Continue": "\nGiven the following conversation, please reply with a title for the chat that is 3-4 words in "
    "length, all words used should be directly related to the content of the chat",
    "Zed": "Generate a concise 3-7 word title for this conversation, omitting punctuation. Go straight to the title, "
    "without any preamble",
    "LibreChat": "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
    "Only return the title itself.",
    "NextChat": "Please generate a four to five word title summarizing our conversation without any lead-in, "
    "punctuation, quotation marks",
    "Claude Code": "Analyze if this message indicates a new conversation topic. If it does, extract a 2-3 word title "
    "that captures the new topic.",
    "Goose": "Based on the conversation so far, provide a concise description of this session in 4 words or less.",
    "LobeChat": "你是一名擅长会话的助理，你需要将用户的会话总结为 10 个字以内的标题",
    "Chatbox": "Based on the chat history, give this conversation a name.\n"
    "Keep it short - 10 characters max, no quotes.",
}
SYSTEM_CHORES = {
    "opencode": "You are a title generator. You output ONLY a thread title. Nothing else.",
    "VS Code": "You are an expert in crafting pithy titles for chatbot conversations. You are presented with a chat "
    "request, and you reply with a brief title that captures the main topic of that request.",
    "Crush": "you will generate a short title based on the first message a user begins a conversation with",
}
PEOPLE = (
    "Write a short title for my novel about a lighthouse keeper.",
    "What is the title of the third Harry Potter book?",
    "Suggest tags for my blog post about bread.",
    "Summarize the French Revolution in three sentences.",
    "How do I set the window title in tkinter?",
    "Who won the title in 1998, and was the final a short one?",
    "hello",
    "",
)


@pytest.mark.parametrize("text", CHORES.values(), ids=CHORES.keys())
async def test_chores_in_the_users_turn(text: str) -> None:
    chat = "\n\n<chat_history>\n" + "USER: how do ships float? ASSISTANT: they displace water.\n" * 200
    for whole in (text, text + chat, chat + text):
        assert background(ChatRequest({"messages": [{"role": "user", "content": whole}]}), None)


@pytest.mark.parametrize("text", SYSTEM_CHORES.values(), ids=SYSTEM_CHORES.keys())
async def test_chores_in_the_system_prompt(text: str) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "how do ships float?"}]
    assert background(ChatRequest({"messages": messages}), None)


@pytest.mark.parametrize("text", PEOPLE)
async def test_what_people_ask_is_no_chore(text: str) -> None:
    assert not background(ChatRequest({"messages": [{"role": "user", "content": text}]}), None)


async def test_an_agent_with_tools_is_no_chore() -> None:
    body = {"messages": [{"role": "user", "content": CHORES["Zed"]}], "tools": [{"type": "function"}]}
    assert not background(ChatRequest(body), None)
