-- Results of public-resource transactions, in the standard's words, by plain SQL.
CREATE TEMP VIEW deal AS
SELECT
    UNIFIED_DEAL_CODE AS unified_deal_code,
    BID_SECTION_CODE AS section_no,
    CASE SECTOR WHEN '工程建设' THEN '1' WHEN '政府采购' THEN '2' WHEN '土地' THEN '3' WHEN '矿业权' THEN '4' WHEN '国有产权' THEN '5' ELSE '9' END AS sector,
    INVEST_PROJECT_CODE AS project_code,
    NOTICE_NAME AS title,
    substr(NOTICE_SEND_TIME, 1, 4) || '-' || substr(NOTICE_SEND_TIME, 5, 2) || '-' || substr(NOTICE_SEND_TIME, 7, 2) || 'T' || substr(NOTICE_SEND_TIME, 9, 2) || ':' || substr(NOTICE_SEND_TIME, 11, 2) || ':' || substr(NOTICE_SEND_TIME, 13, 2) || '+08:00' AS notice_time,
    substr(OPEN_TIME, 1, 4) || '-' || substr(OPEN_TIME, 5, 2) || '-' || substr(OPEN_TIME, 7, 2) || 'T' || substr(OPEN_TIME, 9, 2) || ':' || substr(OPEN_TIME, 11, 2) || ':' || substr(OPEN_TIME, 13, 2) || '+08:00' AS open_time,
    WIN_BIDDER_NAME AS winner_name,
    CASE BIDDER_CODE_TYPE WHEN '法人' THEN '1' WHEN '自然人' THEN '2' END AS winner_kind,
    WIN_BIDDER_CODE AS winner_code,
    printf('%.6f', BID_AMOUNT / 10000.0) AS amount,
    CASE CURRENCY_CODE WHEN '156' THEN 'CNY' WHEN '840' THEN 'USD' END AS currency
FROM department.GCJS_ZBJG;
