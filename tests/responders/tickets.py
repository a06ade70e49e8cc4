"""A ticket task for a small model, written for the purpose: four labels, four worked examples, forty tickets."""

LABELS = ("billing", "shipping", "technical", "account")
SYSTEM = f"You sort tickets of a shop. Answer with exactly one of these labels and nothing else: {', '.join(LABELS)}."
EXAMPLES = (
    ("You charged my card twice for one order.", "billing"),
    ("When will my parcel arrive?", "shipping"),
    ("The app crashes when I open the camera.", "technical"),
    ("How do I change the e-mail address of my profile?", "account"),
)
TICKETS = {
    "billing": (
        "The invoice shows the wrong amount.",
        "I was billed for a subscription that I cancelled.",
        "Can I get a refund for last month's payment?",
        "Why is there an extra fee on my statement?",
        "Please send me a receipt for my purchase.",
        "My credit card was declined at the checkout.",
        "The discount was not taken off the price.",
        "I want to pay by bank transfer instead.",
        "I have not got my money back yet.",
        "The tax on my bill looks too high.",
    ),
    "shipping": (
        "My package has been stuck in customs for a week.",
        "The courier left the box with a neighbour.",
        "The tracking number does not show anything.",
        "My order was delivered to the wrong address.",
        "Do you deliver to Norway?",
        "The parcel came damaged and wet.",
        "I need the delivery before Friday.",
        "Where is my order? It was sent ten days ago.",
        "Only half of the items were in the box.",
        "Can I pick the package up at the warehouse?",
    ),
    "technical": (
        "The website shows error 500 when I search.",
        "The video player freezes after a few seconds.",
        "Your app does not start since the update.",
        "The export button does nothing.",
        "I cannot connect the device to Wi-Fi.",
        "The page loads very slowly in my browser.",
        "The sound stops working when I plug in headphones.",
        "There is a bug in the calendar view.",
        "The printer driver fails to install.",
        "Notifications do not show up on my phone.",
    ),
    "account": (
        "I forgot my password and cannot log in.",
        "Please delete my profile and all my data.",
        "Somebody else is using my login.",
        "How can I change my user name?",
        "I want to add a second user to our team.",
        "My profile has been locked after three attempts.",
        "Can I merge two profiles into one?",
        "How do I turn on two-factor sign-in?",
        "I no longer have the phone number of my profile.",
        "Please change the name on my membership.",
    ),
}


def conversation(ticket: str, *, examples: bool = True) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": SYSTEM}]
    for question, answer in EXAMPLES if examples else ():
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*turns, {"role": "user", "content": ticket}]


def mixed() -> list[tuple[str, str]]:
    """(ticket, label) by turns."""
    return [
        (ticket, label)
        for row in zip(*TICKETS.values(), strict=True)
        for ticket, label in zip(row, LABELS, strict=True)
    ]
