-- Published penalties, in the standard's words, by plain SQL. Left out is a decision dated in a year that has not come yet.
CREATE TEMP VIEW penalty AS
SELECT
    '2' AS record_kind,
    "决定书文号" AS doc_no,
    "处罚机关代码" AS authority_uscc,
    "统一社会信用代码" AS uscc,
    "行政相对人名称" AS subject_name,
    "违法行为类型" AS violation_type,
    CASE "处罚类别" WHEN '警告' THEN '["1"]' WHEN '警告;罚款' THEN '["1","2"]' END AS penalty_kind,
    CASE WHEN "罚款金额" IS NOT NULL THEN printf('%.6f', "罚款金额" / 10000.0) END AS fine,
    -- 2024年3月7日
    printf('%s-%02d-%02d', substr("处罚决定日期", 1, 4), substr("处罚决定日期", 6, instr("处罚决定日期", '月') - 6), substr("处罚决定日期", instr("处罚决定日期", '月') + 1, instr("处罚决定日期", '日') - instr("处罚决定日期", '月') - 1)) AS decided,
    "公示截止期" AS publish_until
FROM department."行政处罚"
WHERE CAST(substr("处罚决定日期", 1, 4) AS INTEGER) <= CAST(strftime('%Y', 'now', '+8 hours') AS INTEGER);
