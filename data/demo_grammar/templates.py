"""The kinds of sentences, with how often each is drawn."""

from collections.abc import Callable

from demo_grammar.infinitives import attempt, passive, pronoun_back, purpose
from demo_grammar.lexicon import Text
from demo_grammar.qualities import comparison, description, pleasing, price, profession, quality, superlative
from demo_grammar.questions import polite_question, request, wh_question, who_question, yes_no
from demo_grammar.relatives import relative_object, relative_subject
from demo_grammar.sampler import Sampler
from demo_grammar.simple import (
    contrast,
    duration,
    future,
    habit,
    modal,
    negation,
    ongoing,
    past,
    perfect,
    play_instrument,
    position,
    state,
    there_is,
)
from demo_grammar.subordinate_clauses import (
    after_clause,
    although,
    because_of_duty,
    because_of_news,
    before_clause,
    if_clause,
    that_clause,
    whether_clause,
    while_clause,
)

Template = Callable[[Sampler], Text]


TEMPLATES: tuple[tuple[Template, int], ...] = (
    (habit, 10),
    (state, 6),
    (ongoing, 9),
    (past, 13),
    (duration, 2),
    (perfect, 4),
    (modal, 9),
    (future, 6),
    (negation, 8),
    (there_is, 4),
    (position, 4),
    (yes_no, 7),
    (polite_question, 2),
    (wh_question, 5),
    (who_question, 2),
    (request, 3),
    (because_of_duty, 3),
    (because_of_news, 3),
    (although, 3),
    (if_clause, 4),
    (while_clause, 2),
    (after_clause, 3),
    (before_clause, 3),
    (that_clause, 5),
    (whether_clause, 3),
    (relative_subject, 4),
    (relative_object, 5),
    (quality, 6),
    (description, 4),
    (comparison, 4),
    (superlative, 3),
    (profession, 2),
    (pleasing, 3),
    (price, 2),
    (purpose, 4),
    (attempt, 4),
    (passive, 4),
    (pronoun_back, 3),
    (contrast, 3),
    (play_instrument, 2),
)
