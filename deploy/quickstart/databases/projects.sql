-- 投资项目在线审批: English names, 12-digit place codes, ISO times, amounts in 万元.
CREATE TABLE IF NOT EXISTS project_info (
    deal_code          TEXT PRIMARY KEY,
    project_code       TEXT,
    apply_project_name TEXT NOT NULL,
    project_type       TEXT,     -- A00001 审批, A00002 核准, A00003 备案
    project_nature     TEXT,
    the_industry       TEXT,
    place_code         TEXT,
    place_code_detail  TEXT,
    scale_content      TEXT,
    total_money        DECIMAL(18,4),
    capital_money      DECIMAL(18,4),
    enterprise_name    TEXT,
    enterprise_code    TEXT,
    lerep_name         TEXT,
    contact_name       TEXT,
    contact_phone      TEXT,
    start_month        TEXT,     -- yyyy-MM
    end_month          TEXT,
    apply_date         TEXT,     -- 2017-09-22T08:30:00+08:00
    state              TEXT,
    is_foreign         INTEGER
);
