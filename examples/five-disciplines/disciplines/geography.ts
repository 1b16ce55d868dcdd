/** Geography. Sources: see places.ts. */
import type { Random } from '../random.js'
import { type Case, type Discipline, nearNumbers } from '../skill.js'
import {
  borders,
  countries,
  haversine,
  onTwoContinents,
  type Place,
  places,
  zoneFacts,
  zoneName,
} from './places.js'

const byName = new Map(countries.map((country) => [country.name, country]))
const continentNames = [...new Set(countries.map(({ continent }) => continent))].sort()

/** Tempting answers come from the same continent. */
function fromSameContinent(random: Random, own: string, field: 'name' | 'capital'): string[] {
  const continent = byName.get(own)!.continent
  const others = random.shuffle(countries.filter(({ name }) => name !== own))
  return [
    ...others.filter((other) => other.continent === continent).map((other) => other[field]),
    ...others.map((other) => other[field]),
  ]
}

const capitalCases: Case[] = countries.map(({ name, capital }) => ({
  fact: `capital:${name}`,
  subject: name,
  slots: { name },
  answer: capital,
  wrong: (random) => fromSameContinent(random, name, 'capital'),
}))

const countryCases: Case[] = countries.map(({ name, capital }) => ({
  fact: `capital:${name}`,
  subject: name,
  slots: { capital },
  answer: name,
  wrong: (random) => fromSameContinent(random, name, 'name'),
}))

const continentCases: Case[] = countries
  .filter(({ code }) => !onTwoContinents.has(code))
  .map(({ name, continent }) => ({
    fact: `continent:${name}`,
    subject: name,
    slots: { name },
    answer: continent,
    wrong: (random: Random) => random.shuffle(continentNames),
  }))

const zoneCases: Case[] = zoneFacts.map(({ capital, country, offset }) => ({
  fact: `time-zone:${country}`,
  subject: country,
  slots: { capital },
  answer: zoneName(offset),
  wrong: (random) => random.shuffle([-2, -1, 1, 2, 3, -3]).map((step) => zoneName(offset + step)),
}))

const degrees = (latitude: number): string =>
  `${Math.abs(Math.round(latitude))} degrees ${latitude < 0 ? 'south' : 'north'}`
const roundsSafely = (value: number, unit: number): boolean =>
  Math.abs(value / unit - Math.floor(value / unit) - 0.5) > 0.05

const latitudeCases: Case[] = places
  .filter(({ latitude }) => Math.abs(latitude) >= 1 && roundsSafely(Math.abs(latitude), 1))
  .map(({ capital, country, latitude }) => ({
    fact: `latitude:${capital}`,
    subject: country,
    slots: { capital },
    answer: degrees(latitude),
    wrong: (random: Random) => {
      const size = Math.abs(Math.round(latitude))
      const [side, other] = latitude < 0 ? ['south', 'north'] : ['north', 'south']
      return random.shuffle([
        `${size} degrees ${other}`,
        ...[3, 5, 8, 12].map((step) => `${size + step} degrees ${side}`),
        ...[3, 5, 8].filter((step) => size > step).map((step) => `${size - step} degrees ${side}`),
      ])
    },
  }))

/** Each capital with its three nearest at least 150 km away, to the nearest 100 km. */
function distanceCases(): Case[] {
  const found = new Map<string, Case>()
  for (const from of places) {
    const others = places
      .filter((to) => to !== from)
      .map((to) => ({ to, kilometres: haversine(from, to) }))
      .filter(({ kilometres }) => kilometres >= 150 && roundsSafely(kilometres, 100))
      .sort((x, y) => x.kilometres - y.kilometres)
    for (const { to, kilometres } of others.slice(0, 3)) {
      const [a, b] = [from.capital, to.capital].sort() as [string, string]
      const hundreds = Math.round(kilometres / 100)
      found.set(`distance:${a},${b}`, {
        fact: `distance:${a},${b}`,
        subject: from.country,
        slots: { a, b },
        answer: `${hundreds * 100} km`,
        wrong: (random) =>
          nearNumbers(random, hundreds)
            .filter((n) => n !== '0')
            .map((n) => `${n}00 km`),
      })
    }
  }
  return [...found.values()]
}

/** A border asked in a closed form; yes and no equally often. */
const sharedBorders = borders.filter(({ shared }) => shared)
const otherPairs = borders.filter(({ shared }) => !shared)

function landBorder(random: Random): Case {
  const { a, b, shared } = random.pick(random.below(2) === 0 ? sharedBorders : otherPairs)
  const [first, second] = random.shuffle([a, b])
  return {
    fact: `border:${a},${b}`,
    subject: first,
    slots: {
      a: first,
      b: second,
      verb: shared ? 'share' : 'do not share',
      Yes: shared ? 'Yes' : 'No',
    },
    answer: shared ? 'yes' : 'no',
    options: ['yes', 'no'],
  }
}

const clock = (hour: number): string => `${String(((hour % 24) + 24) % 24).padStart(2, '0')}:00`

function localTime(random: Random): Case {
  const { capital, country, offset } = random.pick(zoneFacts)
  const hour = random.below(24)
  return {
    fact: `local-time:${country},${hour}`,
    uses: [`time-zone:${country}`],
    slots: { capital, time: clock(hour), zone: zoneName(offset) },
    answer: clock(hour + offset),
    wrong: (r) => [
      clock(hour - offset),
      ...r.shuffle([1, -1, 2, -2, 12]).map((step) => clock(hour + offset + step)),
      clock(hour),
    ],
  }
}

function northOrSouth(random: Random): Case {
  const [a, b] = random.sample(places, 2) as [Place, Place]
  if (Math.abs(a.latitude - b.latitude) < 3) return northOrSouth(random)
  const [first, second] = [a.capital, b.capital].sort()
  return {
    fact: `north-south:${first},${second}`,
    slots: { a: a.capital, b: b.capital },
    answer: a.latitude > b.latitude ? 'north' : 'south',
    options: ['north', 'south'],
  }
}

/** The nearer of two capitals, by a clear margin. */
function nearer(random: Random): Case {
  const [from, a, b] = random.sample(places, 3) as [Place, Place, Place]
  const [toA, toB] = [haversine(from, a), haversine(from, b)]
  if (Math.max(toA, toB) < 1.5 * Math.min(toA, toB)) return nearer(random)
  const [first, second] = [a.capital, b.capital].sort()
  return {
    fact: `nearer:${from.capital},${first},${second}`,
    slots: {
      from: from.capital,
      a: a.capital,
      b: b.capital,
      far: toA < toB ? b.capital : a.capital,
    },
    answer: toA < toB ? a.capital : b.capital,
    options: [a.capital, b.capital],
  }
}

export const geography: Discipline<'geography'> = {
  name: 'geography',
  skills: [
    {
      name: 'capital',
      kind: 'lookup',
      cases: capitalCases,
      ask: {
        tuning: ['{name} has which capital?', 'Please name the capital of {name}.'],
        train: [
          'What is the capital of {name}?',
          'Which city is the capital of {name}?',
          'What is the capital city of {name}?',
          'Find the capital of {name}.',
          'Which capital does {name} have?',
        ],
        validation: ['Name the capital city of {name}.', 'What city is the seat of {name}?'],
        test: [
          'Give the capital of {name}.',
          'Which city do we call the capital of {name}?',
          'On a map of {name}, which city is the capital?',
        ],
      },
      say: [
        'The capital of {name} is {answer}.',
        '{answer} is the capital of {name}.',
        '{name} has the capital {answer}.',
        'The capital city of {name} is {answer}.',
        'On a map of {name}, the capital is {answer}.',
        'The government of {name} is in the city of {answer}.',
      ],
    },
    {
      name: 'country',
      kind: 'lookup',
      cases: countryCases,
      ask: {
        tuning: ['{capital} is the capital of what?', 'Please name the country of {capital}.'],
        train: [
          'Which country has the capital {capital}?',
          'What country is {capital} the capital of?',
          'Of which country is {capital} the capital?',
          'Find the country with the capital {capital}.',
        ],
        validation: [
          'Name the country with the capital {capital}.',
          'In what country is the capital {capital}?',
        ],
        test: [
          'Give the country whose capital is {capital}.',
          'Which country do we find around {capital}?',
          'On a map, in which country is {capital}?',
        ],
      },
      say: [
        '{capital} is the capital of {answer}.',
        'The country with the capital {capital} is {answer}.',
        '{capital} lies in {answer}.',
        'On a map, {capital} is in {answer}.',
        'The city of {capital} belongs to {answer}.',
      ],
    },
    {
      name: 'continent',
      kind: 'lookup',
      cases: continentCases,
      ask: {
        tuning: ['{name} lies on which continent?', 'Please name the continent of {name}.'],
        train: [
          'On which continent is {name}?',
          'What continent is {name} in?',
          'Which continent does {name} belong to?',
          'Find the continent of {name}.',
        ],
        validation: ['Name the continent with {name}.', 'To which continent does {name} belong?'],
        test: [
          'Give the continent of {name}.',
          'On a map of the world, which continent holds {name}?',
          'Which continent is {name} part of?',
        ],
      },
      say: [
        '{name} is in {answer}.',
        'The continent of {name} is {answer}.',
        '{name} belongs to {answer}.',
        '{name} is a country in {answer}.',
        'On a map of the world, {name} is part of {answer}.',
        '{answer} is the continent of {name}.',
      ],
    },
    {
      name: 'land-border',
      kind: 'rule',
      draw: landBorder,
      ask: {
        tuning: ['{a} next to {b}: yes or no?', 'Please say yes or no: do {a} and {b} touch?'],
        train: [
          'Do {a} and {b} share a land border?',
          'Does {a} border {b}?',
          'Is {a} a neighbor of {b}?',
          'Is there a border between {a} and {b}?',
        ],
        validation: ['Are {a} and {b} neighbors?', 'Yes or no: {a} borders {b}.'],
        test: [
          'Is {a} next to {b} on land?',
          'Do the countries {a} and {b} have a border together?',
          'Yes or no: {a} and {b} are neighbors.',
        ],
      },
      front: 'A land border between {a} and {b}',
      say: [
        '{a} and {b} {verb} a land border.',
        '{b} and {a} {verb} a land border.',
        'Do {a} and {b} touch on land? {Yes}.',
      ],
    },
    {
      name: 'time-zone',
      kind: 'lookup',
      cases: zoneCases,
      ask: {
        tuning: ['{capital} uses which time zone?', 'Please state the time zone of {capital}.'],
        train: [
          'What is the time zone of {capital}?',
          'In which time zone is {capital}?',
          'Which time zone does {capital} have?',
          'Find the time zone of {capital}.',
        ],
        validation: [
          'Name the time zone of {capital}.',
          'To which time zone does {capital} belong?',
        ],
        test: [
          'Give the time zone for {capital}.',
          'How far is the clock of {capital} from UTC?',
          'Clocks in {capital} follow which time zone?',
        ],
      },
      say: [
        'The time zone of {capital} is {answer}.',
        '{capital} is in the time zone {answer}.',
        '{capital} has the time zone {answer}.',
        'Clocks in {capital} follow {answer}.',
        'The clock of {capital} is at {answer}.',
      ],
    },
    {
      name: 'local-time',
      kind: 'rule',
      draw: localTime,
      ask: {
        tuning: [
          '{time} UTC in {capital} ({zone}) = ?',
          'Please change {time} UTC to the time of {capital}, {zone}.',
        ],
        train: [
          'It is {time} UTC. What time is it in {capital}, at {zone}?',
          '{capital} is at {zone}. What time is it there at {time} UTC?',
          'What is the local time in {capital} ({zone}) at {time} UTC?',
          'Find the time in {capital} ({zone}) when it is {time} UTC.',
        ],
        validation: [
          'At {time} UTC, what do clocks in {capital} ({zone}) show?',
          'Work out the time in {capital}, {zone}, at {time} UTC.',
        ],
        test: [
          'Give the time in {capital} ({zone}) at {time} UTC.',
          '{capital} follows {zone}. UTC is {time}. What time is it in {capital}?',
          'When UTC shows {time}, which time has {capital} with {zone}?',
        ],
      },
      say: [
        'At {time} UTC it is {answer} in {capital}, which is at {zone}.',
        'When it is {time} UTC, clocks in {capital} ({zone}) show {answer}.',
        '{capital} is at {zone}, so {time} UTC is {answer} there.',
        '{answer} in {capital} ({zone}) is {time} UTC.',
      ],
    },
    {
      name: 'latitude',
      kind: 'lookup',
      cases: latitudeCases,
      ask: {
        tuning: ['{capital} has which latitude?', 'Please state the latitude of {capital}.'],
        train: [
          'What is the latitude of {capital}?',
          'At which latitude is {capital}?',
          'What latitude does {capital} have?',
          'Find the latitude of {capital}.',
        ],
        validation: [
          'Name the latitude of {capital}.',
          'How many degrees from the equator is {capital}?',
        ],
        test: [
          'Give the latitude for {capital}.',
          'How far north or south is {capital}?',
          'On a map, which latitude has {capital}?',
        ],
      },
      say: [
        'The latitude of {capital} is {answer}.',
        '{capital} is at {answer}.',
        '{capital} lies {answer} of the equator.',
        'On a map, {capital} has the latitude {answer}.',
        'At {answer} we find {capital}.',
      ],
    },
    {
      name: 'distance',
      kind: 'lookup',
      cases: distanceCases(),
      ask: {
        tuning: ['{a} to {b}: how far?', 'Please state how far {b} is from {a}.'],
        train: [
          'How far is {a} from {b}?',
          'What is the distance from {a} to {b}?',
          'What is the distance between {a} and {b}?',
          'Find the distance from {a} to {b}.',
        ],
        validation: ['Name the distance between {a} and {b}.', 'How many km is {b} from {a}?'],
        test: [
          'Give the distance from {a} to {b}.',
          'How long is the way from {a} to {b} by air?',
          'On a map, how far apart are {a} and {b}?',
        ],
      },
      say: [
        'The distance from {a} to {b} is {answer}.',
        '{a} is {answer} from {b}.',
        '{a} and {b} are {answer} apart.',
        'The way from {a} to {b} by air is {answer}.',
        'From {b} to {a} it is {answer}.',
      ],
    },
    {
      name: 'north-south',
      kind: 'rule',
      draw: northOrSouth,
      ask: {
        tuning: ['{a}: north or south of {b}?', 'Please say if {a} lies north or south of {b}.'],
        train: [
          'Is {a} north or south of {b}?',
          'Is {a} to the north or to the south of {b}?',
          'From {b}, is {a} north or south?',
          'Find if {a} is north or south of {b}.',
        ],
        validation: ['North or south of {b}: where is {a}?', 'Does {a} lie north or south of {b}?'],
        test: [
          'On a map, is {a} north or south of {b}?',
          'A plane flies from {b} to {a}. Does it go north or south?',
          'Tell if we find {a} north or south of {b}.',
        ],
      },
      front: '{a}, seen from {b}',
      say: [
        '{a} is {answer} of {b}.',
        '{a} lies {answer} of {b}.',
        'On a map, {a} is to the {answer} of {b}.',
        'A plane from {b} to {a} flies {answer}.',
      ],
    },
    {
      name: 'nearer',
      kind: 'rule',
      draw: nearer,
      ask: {
        tuning: ['Near {from}: {a} or {b}?', 'Please say which is closer to {from}, {a} or {b}.'],
        train: [
          'Which is nearer to {from}, {a} or {b}?',
          'Is {a} or {b} nearer to {from}?',
          'Which city is nearer to {from}: {a} or {b}?',
          'From {from}, which is nearer, {a} or {b}?',
        ],
        validation: [
          '{a} or {b}: which is nearer to {from}?',
          'Which has the shorter way to {from}, {a} or {b}?',
        ],
        test: [
          'On a map, which is nearer to {from}, {a} or {b}?',
          'A plane leaves {from}. Is it nearer to {a} or to {b}?',
          'Tell which is nearer to {from}: {a} or {b}.',
        ],
      },
      front: 'Nearer to {from}, {a} or {b}',
      say: [
        '{answer} is nearer to {from} than {far}.',
        'From {from}, {answer} is nearer than {far}.',
        '{far} is farther from {from} than {answer}.',
      ],
    },
  ],
}
