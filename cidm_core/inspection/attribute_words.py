"""English words that say how a thing looks: its colour, what it is made of, pattern, texture.

A list of our own. Words that mean something else at least as often in front of a noun are left out
("light", "rough", "plain"), as are sizes, ages and moods: these differ between photos of one thing.
"""

from __future__ import annotations


def _of(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS = _of("""
    amber aqua auburn azure beige black blond blonde blue bluish bronze brown brownish brunette
    burgundy caramel charcoal chestnut chocolate colorful colorless colourful colourless copper
    coral cream crimson cyan ebony emerald fawn fuchsia ginger gold golden gray grayish green
    greenish grey greyish indigo ivory khaki lavender lilac lime magenta mahogany maroon mauve
    monochrome multicolor multicolored multicolour multicoloured mustard navy ochre olive orange
    peach pink pinkish platinum purple purplish red reddish rose ruby russet rust sapphire scarlet
    sepia silver silvery tan taupe tawny teal terracotta turquoise violet white whitish yellow
    yellowish
""")
MATERIALS = _of("""
    acrylic aluminium aluminum bamboo bone brass brick canvas cardboard ceramic clay cloth concrete
    cotton crochet crocheted crystal denim earthenware enamel fabric felt foam glass granite iron
    knit knitted leather linen marble metal metallic nylon paper papier-mache pewter plaster plastic
    plush polyester porcelain resin rubber rubbery satin silicone silk stainless steel stone straw
    suede tin velvet vinyl wax wicker wire wood wooden wool woolen woollen yarn
""")
PATTERNS = _of("""
    argyle brindle brindled calico camouflage checked checkered chequered dappled dotted
    embroidered floral flowery freckled gingham houndstooth leopard-print marbled mottled
    paisley patchwork patterned piebald pinstriped plaid polka-dot polka-dotted quilted speckled
    spotted spotty striped stripy tabby tartan tie-dye tie-dyed tortoiseshell zebra-print
""")
TEXTURES = _of("""
    bristly bumpy curly feathery fluffy frizzy furry fuzzy glittery glossy hairless hairy iridescent
    matte pearly polished ribbed scaly shaggy shimmering shiny silky sleek smooth sparkly spiky
    translucent transparent velvety wavy wiry woolly wooly wrinkled wrinkly
""")
MEDIA = _of("""
    airbrush airbrushed charcoal chalk crayon engraved etched gouache ink inked lithographic mosaic
    oil pastel pencil pixel pointillist stained-glass watercolor watercolored watercolour
    watercoloured woodcut
""")
"""What a style is made with or looks like; only in front of a style's class words."""

ENDINGS = (
    "-colored",
    "-coloured",
    "-haired",
    "-furred",
    "-coated",
    "-skinned",
    "-eyed",
    "-patterned",
    "-toned",
)
"""Of words such as "dark-haired", "cream-coloured"."""

SHADES = _of("bright dark deep dull faded light muted neon pale pastel rich soft vivid")
"""Say more of the word behind them: gone together with it, otherwise left."""
DEGREES = _of("""
    all almost extremely fully half jet mostly not partly pretty quite rather really slightly
    snow so solid super very
""")
OTHERS = _of("""
    adorable adult baby beautiful big cute fat funny giant happy huge large little long lovely new
    nice old old-fashioned playful round short sleepy slim small smiling tall thin tiny vintage
    young
""")
"""May stand between an attribute and the noun: "a brown little dog"."""

NAMES = frozenset({
    *("black bear", "black bean", "black widow", "blue jay", "blue tit", "blue whale"),
    *("brown bear", "calico cat", "cherry blossom", "coral reef", "cream cake", "ginger ale"),
    *("ginger bread", "glass house", "glass window", "golden eagle", "golden gate"),
    *("golden retriever", "gray wolf", "green tea", "grey wolf", "iron man", "lime juice"),
    *("lime tree", "olive oil", "olive tree", "orange blossom", "orange grove", "orange juice"),
    *("orange peel", "orange slice", "orange tree", "paper clip", "peach tree", "red deer"),
    *("red fox", "red panda", "red squirrel", "red wine", "rose bush", "rose garden"),
    *("rose petal", "steel drum", "stone age", "tabby cat", "white house", "white shark"),
    *("white wine", "wine glass", "yellow submarine"),
})  # fmt: skip
"""What two words name together: "a red panda" is no panda in red."""
