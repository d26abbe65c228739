"""Prompts that nearly anything may follow, on many matters, none of them twice."""

BEGINNINGS = (
    "The meeting on Tuesday began with",
    "When I opened the door, I saw",
    "Most people in the village",
    "According to the report,",
    "She put the letter on the table and",
    "In the first chapter of the book,",
    "On the way home we talked about",
    "The new manager asked everyone to",
    "After the long winter,",
    "My neighbour has a small garden where",
    "The results of the study show that",
    "He looked at the clock and",
    "There are several reasons why",
    "The children were playing when",
    "The train from the north was late because",
)
"""For a model that continues a text."""

QUESTIONS = (
    "What did you do this morning?",
    "Tell me something about the town you live in.",
    "How should I begin a letter to an old friend?",
    "What makes a good teacher?",
    "Describe the room that you are in.",
    "Can you recommend a book?",
    "What is the best way to learn a language?",
    "Write a few lines about a walk.",
    "Why do people travel?",
    "What should I cook tonight?",
    "Explain how a bicycle works.",
    "What are you thinking about?",
    "How was your week?",
    "Give me some advice for a job interview.",
    "What is your favourite time of the year?",
)
"""For a model that answers, within its chat template."""
