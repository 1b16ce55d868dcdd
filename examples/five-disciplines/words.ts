/**
 * Everyday English words for the general and instruction sets and the general part of the pre-training
 * text. Source: common usage, as any learner's dictionary gives it; no fact of a discipline is among
 * them.
 */
const list = (text: string): string[] => text.split(/\s+/)

export const days = list('Monday Tuesday Wednesday Thursday Friday Saturday Sunday')
export const months = list(
  'January February March April May June July August September October November December',
)
export const letters = [...'abcdefghijklmnopqrstuvwxyz']
export const numberWords =
  list(`zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen twenty`)

export const opposites: readonly (readonly [string, string])[] =
  list(`hot/cold big/small fast/slow old/new long/short happy/sad full/empty early/late
open/closed clean/dirty dry/wet heavy/light rich/poor strong/weak hard/soft loud/quiet
day/night up/down in/out left/right first/last good/bad near/far high/low thick/thin
wide/narrow deep/shallow true/false easy/difficult bright/dark sweet/bitter start/stop
push/pull buy/sell win/lose come/go laugh/cry love/hate always/never before/after`).map(
    (pair) => pair.split('/') as [string, string],
  )

export const kinds: Readonly<Record<string, readonly string[]>> = {
  animal:
    list(`dog cat horse cow sheep pig goat duck bird fish mouse lion tiger bear wolf fox rabbit
frog snake bee`),
  fruit: list('apple pear plum cherry peach lemon orange banana grape melon'),
  color: list('red blue green yellow white black brown pink purple gray'),
  tool: list('hammer saw knife spoon brush needle pen broom shovel axe'),
  'piece of clothing': list('shirt coat hat sock shoe dress glove scarf belt skirt'),
  'part of the body': list('hand foot arm leg head nose ear eye mouth knee'),
  'piece of furniture': list('table chair bed sofa desk shelf bench stool cupboard wardrobe'),
  vehicle: list('car bus train bicycle boat ship truck tram plane sled'),
}

/** What everyone calls the color of a thing. */
export const thingColors: readonly (readonly [string, string])[] = [
  ['grass', 'green'],
  ['the sky', 'blue'],
  ['snow', 'white'],
  ['blood', 'red'],
  ['coal', 'black'],
  ['a lemon', 'yellow'],
  ['milk', 'white'],
  ['chocolate', 'brown'],
  ['a banana', 'yellow'],
  ['a leaf', 'green'],
  ['a raven', 'black'],
  ['a tomato', 'red'],
  ['a cloud', 'white'],
  ['a frog', 'green'],
  ['tar', 'black'],
  ['the sun', 'yellow'],
  ['a cherry', 'red'],
  ['soil', 'brown'],
  ['a pea', 'green'],
  ['salt', 'white'],
  ['an elephant', 'gray'],
  ['a pig', 'pink'],
  ['a flamingo', 'pink'],
  ['a bear', 'brown'],
  ['a swan', 'white'],
  ['a cucumber', 'green'],
]

/** Irregular and regular plurals. */
export const plurals: readonly (readonly [string, string])[] = [
  ...list(`dog cat horse cow pig duck bird bear apple pear plum hammer pen shirt coat hat sock shoe
hand arm leg nose ear eye table chair bed car boat ship train tree house door river lamp
book girl`).map((word) => [word, `${word}s`] as const),
  ...list('bus fox box dress brush bench peach glass dish wish').map(
    (word) => [word, `${word}es`] as const,
  ),
  ...['cherry', 'city', 'baby', 'lady', 'story', 'party'].map(
    (word) => [word, `${word.slice(0, -1)}ies`] as const,
  ),
  ['man', 'men'],
  ['woman', 'women'],
  ['child', 'children'],
  ['foot', 'feet'],
  ['tooth', 'teeth'],
  ['mouse', 'mice'],
  ['goose', 'geese'],
  ['knife', 'knives'],
  ['wolf', 'wolves'],
  ['shelf', 'shelves'],
  ['leaf', 'leaves'],
]

/** Plain nouns, for copying, sorting and counting. */
export const nouns: readonly string[] = [
  ...new Set([
    ...Object.entries(kinds).flatMap(([kind, members]) => (kind === 'color' ? [] : members)),
    'river',
    'house',
    'garden',
    'window',
    'door',
    'tree',
    'flower',
    'road',
    'bridge',
    'lamp',
    'book',
    'letter',
    'song',
    'story',
    'friend',
    'sister',
    'brother',
    'mother',
    'father',
    'baker',
    'farmer',
    'teacher',
    'cloud',
    'rain',
    'wind',
    'stone',
    'sand',
    'hill',
    'lake',
    'sea',
    'moon',
    'star',
    'bread',
    'cheese',
    'soup',
    'cake',
    'honey',
    'butter',
    'morning',
    'evening',
    'summer',
    'winter',
    'market',
    'school',
    'village',
    'kitchen',
    'basket',
    'bottle',
    'clock',
    'mirror',
    'candle',
    'paper',
    'key',
    'box',
    'cup',
    'bowl',
    'rope',
    'bell',
    'drum',
    'flute',
    'ball',
    'kite',
  ]),
]

export const adjectives =
  list(`big small old new red blue green white black brown happy quiet bright warm cold soft
long short clean round`)

export const verbs = list('runs sleeps waits sings jumps rests plays walks falls turns')
export const places = [
  'in the garden',
  'near the river',
  'on the hill',
  'by the door',
  'in the house',
  'at the market',
  'under the tree',
  'on the road',
  'in the village',
  'near the lake',
  'at school',
  'in the kitchen',
] as const
export const names = list('Anna Tom Mary Ben Lucy Sam Emma Jack Nina Paul Ella Max')

/** "an" before a vowel. */
export const withArticle = (word: string): string => `${/^[aeiou]/.test(word) ? 'an' : 'a'} ${word}`
