{# Which loads a run has to publish, and the tests that have to look at them first. #}

{# The parts of the model at hand that are not published as they would be now, oldest first: dictionaries of `model`,
   `name`, `file_month`, `load_id`, `rules`. #}
{% macro pending_parts(sql) %}
    {% set rules = staging_rules() ~ '-' ~ local_md5(sql | replace(invocation_id, '')) %}
    {% set by = config.get('part', 'file_month') %}
    {% set parts = [] %}
    {% for load in pending_loads(model.name, by, rules, config.get('gated')) %}
        {% do parts.append({
            'model': model.name, 'name': load[by], 'file_month': load.file_month, 'load_id': load.load_id, 'rules': rules,
        }) %}
    {% endfor %}
    {{ return(parts) }}
{% endmacro %}


{# Reads, at a run's start, which loads are staged: what is staged later was not there for the gate to judge. All nodes of
   a run share `graph`. Which months are looked at TAXI_MONTHS says, with commas between them: left out, all of them on a
   production target, and the newest in an analyst's own schema. #}
{% macro note_staged_loads() %}
    {% if execute %}
        {% do graph.update({'staged_loads': query(
            "select load_id, file_month from " ~ raw_loads() ~ " where status = 'staged'" ~ chosen_months()
            ~ " order by file_month"
        ).rows}) %}
    {% endif %}
{% endmacro %}

{# The staged loads whose publication in a model has another load or other rules; `--full-refresh` takes all. #}
{% macro pending_loads(name, by, rules, gated) %}
    {% set known = query(
        "select part, load_id, rules, state, refused_load_id, refused_rules from " ~ publications()
        ~ " where model = '" ~ name ~ "'"
    ) %}
    {% set published = {} %}
    {% for row in known.rows %}{% do published.update({row['part']: row}) %}{% endfor %}
    {% set loads = [] %}
    {% for row in graph['staged_loads'] %}
        {% set load = {'load_id': row['load_id'], 'file_month': row['file_month']} %}
        {% set there = published.get(load[by]) %}
        {% set is_current = there and there['load_id'] == load.load_id and same_rules(there['rules'], rules)
            and there['state'] not in ('publishing', 'swapping', 'withdrawn') %}
        {% set is_refused = gated and there and there['refused_load_id'] == load.load_id
            and same_rules(there['refused_rules'], rules) %}
        {% if flags.FULL_REFRESH or not (is_current or is_refused) %}{% do loads.append(load) %}{% endif %}
    {% endfor %}
    {{ return(loads) }}
{% endmacro %}

{# Rules are `<staging>-<model>`; the gate, which looks at staging, knows the first half only. #}
{% macro same_rules(recorded, rules) %}
    {% if recorded and '-' in recorded and '-' in rules %}{{ return(recorded == rules) }}{% endif %}
    {{ return(recorded and recorded.split('-')[0] == rules.split('-')[0]) }}
{% endmacro %}

{% macro chosen_months() %}
    {% set months = env_var('TAXI_MONTHS', '') %}
    {% if months %}{{ return(" and file_month in (" ~ quoted(months.split(',')) ~ ")") }}{% endif %}
    {% if is_production() %}{{ return("") }}{% endif %}
    {{ return(" and file_month = (select max(file_month) from " ~ raw_loads() ~ " where status = 'staged')") }}
{% endmacro %}

{% macro raw_loads() %}{{ return((env_var('TAXI_RAW_SCHEMA', '') or 'raw') ~ '.loads') }}{% endmacro %}

{% macro is_production() %}{{ return(target.name in ('duckdb', 'cratedb')) }}{% endmacro %}

{# What staging makes of a raw row: the view as the engine has it, with all macros and vars in it. #}
{% macro staging_rules() %}{{ return(local_md5(view_definition('stg_yellow_trips'))) }}{% endmacro %}


{# The load ids that this run is to judge, for `where load_id in (…)`: those that `trip_data` would publish. #}
{% macro pending_load_ids() %}
    {% if not runs_tests() %}{{ return("''") }}{% endif %}
    {{ return(quoted_ids(pending_loads('trip_data', 'file_month', staging_rules(), true))) }}
{% endmacro %}

{% macro quoted_ids(loads) %}
    {{ return(quoted([''] + (loads | map(attribute='load_id') | list))) }}
{% endmacro %}

{# Elsewhere, as in `dbt compile`, SQL is rendered with no warehouse behind it. #}
{% macro runs_tests() %}{{ return(execute and flags.WHICH in ('build', 'test', 'retry')) }}{% endmacro %}

{# dbt renders no macro in a test's `where`: markers stand for what changes from run to run.
   __pending__     the loads that this run is to judge
   __published__   in a run that publishes: the months that it published; otherwise, as in `dbt test`, all there are #}
{% macro get_where_subquery(relation) %}
    {% set where = config.get('where', '') %}
    {% if not where %}{{ return(relation) }}{% endif %}
    {% if '__pending__' in where %}
        {% set where = where | replace('__pending__', 'load_id in (' ~ pending_load_ids() ~ ')') %}
    {% endif %}
    {% if '__published__' in where %}
        {% set where = where | replace('__published__', published_now()) %}
    {% endif %}
    {{ return("(select * from " ~ relation ~ " where " ~ where ~ ") dbt_subquery") }}
{% endmacro %}

{% macro published_now(column='file_month', of='file_month') %}
    {% if not runs_tests() or 'model.taxi_elt.trip_data' not in selected_resources %}{{ return("true") }}{% endif %}
    {{ return(column ~ " in (" ~ quoted(publications_to_be_tested().columns[of].values()) ~ ")") }}
{% endmacro %}

{% macro publications_to_be_tested() %}
    {{ return(query(
        "select file_month, load_id from " ~ publications() ~ " where " ~ is_to_be_tested() ~ " order by file_month"
    )) }}
{% endmacro %}

{% macro quoted(values) %}{{ return("'" ~ (values | join("', '")) ~ "'") }}{% endmacro %}

{# What this run published, and what another did whose tests on it have not all run. #}
{% macro is_to_be_tested() %}
    {{ return(
        "model = 'trip_data' and (build_id = '" ~ invocation_id ~ "' or state = 'untested'" ~ chosen_months() ~ ")"
    ) }}
{% endmacro %}

{# The loads of `published_now` whose rows staging still has: not those that a newer load, as yet unpublished, replaced. #}
{% macro published_loads() -%}
    select load_id
    from {{ source('published', 'publications') }}
    where
        model = 'trip_data'
        and load_id in (select loads.load_id from {{ source('raw', 'loads') }} as loads where loads.status = 'staged')
        and {{ published_now() }}
{%- endmacro %}


{% macro gate_tests() %}
    {% set tests = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'test' and 'gate' in node.tags %}
        {% do tests.append(node) %}
    {% endfor %}
    {{ return(tests) }}
{% endmacro %}

{# Publishing what nobody judged is what the gate is there to prevent. An analyst's own schema may. #}
{% macro assert_the_gate_is_part_of_the_run() %}
    {% if is_production() %}
        {% for test in gate_tests() if test.unique_id not in selected_resources %}
            {% do exceptions.raise_compiler_error(
                "The gate's tests are not part of this run, so " ~ model.name ~ " publishes nothing: use"
                ~ " `dbt build --target " ~ target.name ~ "`, or `dbt build --select +" ~ model.name ~ "`."
            ) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{# At the run's end: a load that failed the gate is recorded as refused, with the tests, and left alone until it has
   other bytes or other rules; a publication that failed a test on its rows is marked as suspect. #}
{% macro record_verdicts(results) %}
    {% if execute and flags.WHICH == 'build' %}
        {% set of_the_gate, output, unasked = [], [], [] %}
        {% for result in results if result.node.resource_type == 'test' %}
            {% set is_gate = 'gate' in result.node.tags %}
            {# a test that could not be asked says nothing: the load stays pending, or the publication untested #}
            {% if result.status == 'fail' %}
                {% do (of_the_gate if is_gate else output).append(result) %}
            {% elif result.status not in ('pass', 'warn') and not is_gate %}
                {% do unasked.append(result.node.name) %}
            {% endif %}
        {% endfor %}
        {% if of_the_gate %}{% do refuse_loads(of_the_gate) %}{% endif %}
        {% if output %}{% do suspect_publications(output) %}{% endif %}
        {% if not unasked and 'model.taxi_elt.trip_data' in selected_resources and runs_output_tests() %}
            {% do execute_statement(
                "update " ~ publications() ~ " set state = 'published' where state = 'untested' and "
                ~ is_to_be_tested()
            ) %}
        {% endif %}
        {% do adapter.commit() %}
    {% endif %}
{% endmacro %}

{% macro runs_output_tests() %}
    {% for node in graph.nodes.values() if node.resource_type == 'test' and 'gate' not in node.tags %}
        {% if node.unique_id not in selected_resources %}{{ return(false) }}{% endif %}
    {% endfor %}
    {{ return(true) }}
{% endmacro %}

{# Which of several months a test failed on, the test itself tells: it is asked again of each alone, and judged by its
   own threshold. `replaced` has the texts in its SQL that name all of them, and those that name the one. #}
{% macro fails_alone(result, replaced) %}
    {% set asked = namespace(sql=result.node.compiled_code) %}
    {% for all, one in replaced.items() %}{% set asked.sql = asked.sql | replace(all, one) %}{% endfor %}
    {% set failed = result.node.config.fail_calc ~ ' ' ~ result.node.config.error_if %}
    {{ return(query('select ' ~ failed ~ ' from (' ~ asked.sql ~ ') as failing').rows[0][0]) }}
{% endmacro %}

{% macro refuse_loads(results) %}
    {% set rules = staging_rules() %}
    {% set pending = pending_loads('trip_data', 'file_month', rules, true) %}
    {% for load in pending %}
        {% set names = [] %}
        {% for result in results %}
            {% if pending | length == 1 or fails_alone(result, {quoted_ids(pending): quoted([load.load_id])}) %}
                {% do names.append(result.node.name) %}
            {% endif %}
        {% endfor %}
        {% if names %}{% do refuse(load, rules, names | join(", ")) %}{% endif %}
    {% endfor %}
{% endmacro %}

{# A failure that is none of a single month's, as one of months together, is all months'. #}
{% macro suspect_publications(results) %}
    {% set judged = publications_to_be_tested() %}
    {% set months, loads = judged.columns['file_month'].values(), judged.columns['load_id'].values() %}
    {% set failed = {} %}
    {% for result in results %}
        {% set found = [] %}
        {% for row in judged.rows if months | length > 1 %}
            {% if fails_alone(
                result, {quoted(months): quoted([row['file_month']]), quoted(loads): quoted([row['load_id']])}
            ) %}
                {% do found.append(row['file_month']) %}
            {% endif %}
        {% endfor %}
        {% for month in found or months %}
            {% do failed.update({month: failed.get(month, []) + [result.node.name]}) %}
        {% endfor %}
    {% endfor %}
    {% for month, names in failed.items() %}
        {% do execute_statement(
            "update " ~ publications() ~ " set state = 'suspect', failed_tests = '" ~ (names | join(", "))
            ~ "' where state in ('untested', 'published') and part = '" ~ month ~ "' and " ~ is_to_be_tested()
        ) %}
    {% endfor %}
{% endmacro %}

{% macro refuse(load, rules, failed_tests) %}
    {% set part = {'model': 'trip_data', 'name': load.file_month} %}
    {% set row = publication(part.model, part.name) %}
    {# a run that publishes the month now judged another load of it #}
    {% if row and row.state in ('publishing', 'swapping') %}{{ return('') }}{% endif %}
    {% do take_row(row, part, {
        'state': "'refused'", 'file_month': "'" ~ load.file_month ~ "'", 'refused_load_id': "'" ~ load.load_id ~ "'",
        'refused_rules': "'" ~ rules ~ "'", 'failed_tests': "'" ~ failed_tests ~ "'", 'started_at': utc_now(),
    }) %}
    {% do log(load.file_month ~ " is refused: load " ~ load.load_id ~ " failed " ~ failed_tests, info=true) %}
{% endmacro %}
