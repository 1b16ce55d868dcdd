/**
 * Countries, capitals, borders, coordinates and time zones.
 *
 * Sources: names, capitals and continents from countries-list (MIT); land borders from the shared arcs
 * of world-atlas (ISC; Natural Earth, public domain) through topojson-client (ISC); coordinates and
 * standard time from the IANA Time Zone Database (public domain, facts/zones.tsv): a zone named after a
 * capital gives its place, and the only zone of a country gives its time. Distances are great circles
 * on a sphere of radius 6,371 km (the mean radius of the IUGG), by the haversine formula.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

import { continents, countries as countryTable, type TCountryCode } from 'countries-list'
import { neighbors } from 'topojson-client'
import type { GeometryCollection, Topology } from 'topojson-specification'

export interface Country {
  code: string
  name: string
  capital: string
  continent: string
}

export interface Place {
  capital: string
  country: string
  /** Degrees, north and east positive. */
  latitude: number
  longitude: number
}

/** Names differ between the two packages; Natural Earth's on the left. */
const aliases: Readonly<Record<string, string>> = {
  'United States of America': 'United States',
  Turkey: 'Türkiye',
  "Côte d'Ivoire": 'Ivory Coast',
  'Dominican Rep.': 'Dominican Republic',
  'Central African Rep.': 'Central African Republic',
  'S. Sudan': 'South Sudan',
  'Solomon Is.': 'Solomon Islands',
  Macedonia: 'North Macedonia',
  eSwatini: 'Eswatini',
  'Bosnia and Herz.': 'Bosnia and Herzegovina',
  'Eq. Guinea': 'Equatorial Guinea',
}

/** Not asked about: more than one capital, or a capital or territory that states dispute. */
const leftOut = new Set([
  'BO',
  'BJ',
  'CL',
  'EH',
  'FK',
  'GL',
  'IL',
  'LK',
  'NC',
  'NL',
  'PR',
  'PS',
  'SZ',
  'TW',
  'XK',
  'ZA',
])

/** On two continents, or placed on either by different sources: no question about their continent. */
export const onTwoContinents = new Set(['AM', 'AZ', 'CY', 'EG', 'GE', 'ID', 'KZ', 'RU', 'TR'])

/** Plain letters: the corpus is for a small tokenizer. */
const plain = (text: string): string => text.normalize('NFKD').replace(/[\u0300-\u036f]/g, '')

interface Named {
  name: string
}
const require = createRequire(import.meta.url)

/** The countries of one map, in Natural Earth's order, and who shares an arc with whom. */
function readAtlas(scale: '10m' | '50m' | '110m'): { names: string[]; neighbours: number[][] } {
  const atlas = require(`world-atlas/countries-${scale}.json`) as Topology
  const { geometries } = atlas.objects['countries'] as GeometryCollection<Named>
  const names = geometries.map(({ properties }) => {
    const name = (properties as Named).name
    return aliases[name] ?? name
  })
  return { names, neighbours: neighbors([...geometries]) }
}

/** The coarse map shows countries large enough to be well known. */
const wellKnown = new Set(readAtlas('110m').names)
const byCode = new Map(
  Object.entries(countryTable) as [TCountryCode, (typeof countryTable)[TCountryCode]][],
)

/** Zone rows by country code. */
const zones = new Map<
  string,
  { latitude: number; longitude: number; city: string; offset: number }[]
>()
for (const line of readFileSync(new URL('../facts/zones.tsv', import.meta.url), 'utf8').split(
  '\n',
)) {
  if (line === '' || line.startsWith('#')) continue
  const [code, latitude, longitude, zone, offset] = line.split('\t') as [
    string,
    string,
    string,
    string,
    string,
  ]
  const rows = zones.get(code) ?? []
  rows.push({
    latitude: Number(latitude) / 60,
    longitude: Number(longitude) / 60,
    city: zone.split('/').at(-1)!.replace(/_/g, ' '),
    offset: Number(offset),
  })
  zones.set(code, rows)
}

/** Countries that the coarse map shows, with a capital, known to the time zone database. */
export const countries: readonly Country[] = [...byCode]
  .filter(
    ([code, { name, capital }]) =>
      wellKnown.has(name) && capital !== '' && !leftOut.has(code) && zones.has(code),
  )
  .filter(
    ([, { name, capital, continent }]) => plain(name) !== plain(capital) && continent !== 'AN',
  )
  .filter(([, { name }]) => name.split(' ').length <= 3)
  .map(([code, { name, capital, continent }]) => ({
    code,
    name: plain(name),
    capital: plain(capital),
    continent: continents[continent],
  }))
  .filter(
    ({ name, capital }) => /^[A-Z][A-Za-z' .-]+$/.test(name) && /^[A-Z][A-Za-z' -]+$/.test(capital),
  )
  .sort((a, b) => (a.name < b.name ? -1 : 1))

/** Capitals that give a zone its name and, by the database's convention, its coordinates. */
export const places: readonly Place[] = countries.flatMap(({ code, name, capital }) =>
  zones
    .get(code)!
    .filter(({ city }) => city === capital)
    .map(({ latitude, longitude }) => ({ capital, country: name, latitude, longitude })),
)

export interface ZoneFact {
  capital: string
  country: string
  /** Hours ahead of UTC, without daylight saving. */
  offset: number
}

/**
 * Countries with one zone and whole hours. Ireland and Morocco are left out: the database describes
 * their clocks by a negative daylight saving time, so that "standard" is a matter of convention.
 */
export const zoneFacts: readonly ZoneFact[] = countries.flatMap(({ code, name, capital }) => {
  const rows = zones.get(code)!
  if (rows.length !== 1 || rows[0].offset % 60 !== 0 || code === 'IE' || code === 'MA') return []
  return [{ capital, country: name, offset: rows[0].offset / 60 }]
})

export const zoneName = (offset: number): string => `UTC${offset < 0 ? '' : '+'}${offset}`

export function haversine(a: Place, b: Place): number {
  const radians = Math.PI / 180
  const dLatitude = (b.latitude - a.latitude) * radians
  const dLongitude = (b.longitude - a.longitude) * radians
  const h =
    Math.sin(dLatitude / 2) ** 2 +
    Math.cos(a.latitude * radians) * Math.cos(b.latitude * radians) * Math.sin(dLongitude / 2) ** 2
  return 2 * 6371 * Math.asin(Math.sqrt(h))
}

/** Continents joined by land; a border between others (France and Brazil) is an overseas territory's. */
const joined = new Set(['EU AS', 'AS EU', 'AS AF', 'AF AS', 'NA SA', 'SA NA'])
const disputedShapes = new Set([
  'W. Sahara',
  'N. Cyprus',
  'Somaliland',
  'Siachen Glacier',
  'Kosovo',
  'Palestine',
  'Israel',
  'Taiwan',
])
const pairKey = (a: string, b: string): string => (a < b ? `${a}|${b}` : `${b}|${a}`)
const continentOf = new Map(
  [...byCode.values()].map(({ name, continent }) => [name, continent as string]),
)

const borderSet = new Set<string>()
/** Pairs whose border is disputed, overseas, or on one map only: neither asked nor denied. */
export const doubtful = new Set<string>()

function readBorders(scale: '10m' | '50m'): Set<string> {
  const { names, neighbours } = readAtlas(scale)
  const found = new Set<string>()
  names.forEach((name, index) => {
    const others = neighbours[index].map((other) => names[other])
    if (disputedShapes.has(name)) {
      for (const a of others)
        for (const b of others) if (a !== b) doubtful.add(pairKey(plain(a), plain(b)))
    }
    for (const other of others) {
      const key = pairKey(plain(name), plain(other))
      const [from, to] = [continentOf.get(name), continentOf.get(other)]
      if (from === to || joined.has(`${from} ${to}`)) found.add(key)
      else doubtful.add(key)
    }
  })
  return found
}

/** The fine and the middle map must agree; a border of a few hundred metres is on one of them only. */
function compareMaps(): void {
  const [fine, middle] = [readBorders('10m'), readBorders('50m')]
  for (const key of new Set([...fine, ...middle])) {
    if (fine.has(key) && middle.has(key)) borderSet.add(key)
    else doubtful.add(key)
  }
}
compareMaps()
const asked = new Set(countries.map(({ name }) => name))

export interface Border {
  a: string
  b: string
  shared: boolean
}

const areaOf = new Map(countries.map(({ name, continent }) => [name, continent]))
const bordersOf = (country: string): string[] =>
  [...borderSet]
    .filter((key) => key.split('|').includes(country))
    .map((key) => key.split('|').find((n) => n !== country)!)

/** Every land border, and as many pairs that nearly share one: neighbours of a neighbour, on one continent. */
function borderFacts(): Border[] {
  const known = (key: string): boolean =>
    key.split('|').every((name) => asked.has(name)) && !doubtful.has(key)
  const shared = [...borderSet].filter(known).sort()
  const near = new Set<string>()
  for (const name of asked) {
    for (const middle of bordersOf(name)) {
      for (const far of bordersOf(middle)) {
        const key = pairKey(name, far)
        if (
          far !== name &&
          !borderSet.has(key) &&
          known(key) &&
          areaOf.get(name) === areaOf.get(far)
        )
          near.add(key)
      }
    }
  }
  const split = (key: string, isShared: boolean): Border => {
    const [a, b] = key.split('|') as [string, string]
    return { a, b, shared: isShared }
  }
  return [
    ...shared.map((key) => split(key, true)),
    ...[...near].sort().map((key) => split(key, false)),
  ]
}

export const borders: readonly Border[] = borderFacts()
