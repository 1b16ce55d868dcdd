/** `Question: {question}` filled from a record. A place is a key, `{choices.0}` an element; `|trim` takes white space off. */

type Fields = Readonly<Record<string, unknown>>

const place = /\{([^{}|\s]+)(?:\|(trim|spaces))?\}/g

/** What is wrong with a record, in one clause. */
export class UnusableRecord extends Error {}

/** @throws UnusableRecord if the record has not what a place names */
export function fillTemplate(template: string, fields: Fields): string {
  return template.replace(place, (_, path: string, filter?: string) => {
    const text = textAt(fields, path)
    if (filter === 'trim') return text.trim()
    return filter === 'spaces' ? text.replaceAll('_', ' ') : text
  })
}

/** A value as text: numbers and truth values as they are written, a list as its lines. */
function textAt(fields: Fields, path: string): string {
  const value = valueAt(fields, path)
  const text = (one: unknown): string => {
    if (typeof one === 'string') return one
    if (typeof one === 'number' || typeof one === 'boolean') return String(one)
    throw new UnusableRecord(`${path} must be a text, a number or a list of them`)
  }
  return Array.isArray(value) ? value.map(text).join('\n') : text(value)
}

/** @throws UnusableRecord if there is nothing at `path` */
export function valueAt(fields: Fields, path: string): unknown {
  let value: unknown = fields
  for (const name of path.split('.')) {
    const holder = value as Record<string, unknown> | null | undefined
    value =
      typeof holder === 'object' && holder !== null && Object.hasOwn(holder, name)
        ? holder[name]
        : undefined
    if (value === undefined || value === null) throw new UnusableRecord(`${path} is missing`)
  }
  return value
}
