"""The warning of a tokenizer that does not know the language, on generated texts in 20 scripts."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kdlora.data.checks.tokens import EncoderTokenizer, count_tokens, token_findings

# The letters of a script, and whether it writes blanks between words.
SCRIPTS = {
    "Latin": ("abcdefghijklmnopqrstuvwxyz", True),
    "Greek": ("αβγδεζηθικλμνξοπρστυφχψω", True),
    "Cyrillic": ("абвгдежзийклмнопрстуфхцчшщыьэюя", True),
    "Armenian": ("աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ", True),
    "Georgian": ("აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ", True),
    "Hebrew": ("אבגדהוזחטיכלמנסעפצקרשת", True),
    "Arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", True),
    "Devanagari": ("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह", True),
    "Bengali": ("কখগঘচছজঝটঠডঢণতথদধনপফবভমযরলশষসহ", True),
    "Gurmukhi": ("ਕਖਗਘਚਛਜਝਟਠਡਢਣਤਥਦਧਨਪਫਬਭਮਯਰਲਵਸਹ", True),
    "Gujarati": ("કખગઘચછજઝટઠડઢણતથદધનપફબભમયરલવશષસહ", True),
    "Tamil": ("கஙசஞடணதநபமயரலவழளறன", True),
    "Telugu": ("కఖగఘచఛజఝటఠడఢణతథదధనపఫబభమయరలవశషసహ", True),
    "Kannada": ("ಕಖಗಘಚಛಜಝಟಠಡಢಣತಥದಧನಪಫಬಭಮಯರಲವಶಷಸಹ", True),
    "Malayalam": ("കഖഗഘചഛജഝടഠഡഢണതഥദധനപഫബഭമയരലവശഷസഹ", True),
    "Ethiopic": ("ሀለሐመሠረሰሸቀበተቸኀነኘአከኸወዐዘዠየደጀገጠጨጰጸፀፈፐ", True),
    "Hangul": ("가나다라마바사아자차카타파하고노도로모보소오조", True),
    "Thai": ("กขคงจฉชซญดตถทธนบปผฝพฟมยรลวสหอ", False),
    "Khmer": ("កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវសហអ", False),
    "Han": ("的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年", False),
}


def texts_in(script: str, n: int = 400) -> list[str]:
    """Texts of a made-up language of 300 words, some of which are frequent."""
    letters, blanks = SCRIPTS[script]
    rng = np.random.default_rng(0)
    least, most = (2, 7) if blanks else (2, 6)
    if script == "Han":
        least, most = 1, 3
    words = ["".join(rng.choice(list(letters), rng.integers(least, most))) for _ in range(300)]
    shares = 1 / np.arange(1, 301)
    return [
        (" " if blanks else "").join(
            rng.choice(words, rng.integers(8, 20), p=shares / shares.sum())
        )
        for _ in range(n)
    ]


def tokenizer_of(texts: list[str]) -> Tokenizer:
    """A subword tokenizer that was made for these texts, as XLM-R's was for a hundred languages."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def warns(tokenizer: Tokenizer, texts: list[str]) -> bool:
    count = count_tokens(EncoderTokenizer(("e",), tokenizer, 512), (texts,))
    return "foreign_tokenizer" in {found.name for found in token_findings(count)}


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return tokenizer_of(texts_in("Latin"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tokenizer_of_another_script_is_doubted_and_a_fitting_one_is_not(script, english):
    texts = texts_in(script)
    assert not warns(tokenizer_of(texts), texts)
    assert warns(english, texts) == (script != "Latin")
